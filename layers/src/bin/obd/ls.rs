//! `obd ls`.

use std::process::ExitCode;

use layers::command_line::console::{human, say};
use layers::tool::tcmu::{Device, Host, Owner, owned};
use serde_json::{Value, json};

pub(crate) fn run(json: bool) -> ExitCode {
    let host = Host::default();
    let devices = owned(&host);
    if json {
        let all = devices
            .iter()
            .map(|(device, owner)| document(&host, device, owner));
        say(Value::Array(all.collect()));
        return ExitCode::SUCCESS;
    }
    if !devices.is_empty() {
        say(format_args!(
            "{:<10} {:>10} {:<2} {:>9} {:>9}  {:<24} DEVICE  CONFIG  MOUNTS",
            "BLOCK", "SIZE", "", "READS", "WRITES", "OWNER"
        ));
    }
    for (device, owner) in &devices {
        print(&host, device, owner);
    }
    ExitCode::SUCCESS
}

fn print(host: &Host, device: &Device, owner: &Owner) {
    let (node, size, mode, reads, writes) = match &device.block {
        Some(block) => (
            format!("/dev/{}", block.name),
            human(block.bytes),
            if block.is_read_only { "ro" } else { "rw" },
            block.reads,
            block.writes,
        ),
        None => ("half made".to_owned(), String::new(), "", 0, 0),
    };
    let owner = match owner {
        Owner::Process(process) => format!("{} {}", process.pid, process.command),
        Owner::Nobody => "none: no daemon serves it".to_owned(),
        Owner::Unknown => "unknown: not in this /proc".to_owned(),
    };
    let dev_id = match device.dev_id.as_str() {
        "" => String::new(),
        dev_id => format!(";{dev_id}"),
    };
    let config = device.config.display();
    let mounts = device.mounts(host).join(" ");
    say(format_args!(
        "{node:<10} {size:>10} {mode:<2} {reads:>9} {writes:>9}  {owner:<24} {}/{}  {config}{dev_id}  {mounts}",
        device.hba, device.name
    ));
}

fn document(host: &Host, device: &Device, owner: &Owner) -> Value {
    let block = device.block.as_ref();
    let (state, process) = match owner {
        Owner::Process(process) => ("served", Some(process)),
        Owner::Nobody => ("none", None),
        Owner::Unknown => ("unknown", None),
    };
    json!({
        "device": block.map(|block| format!("/dev/{}", block.name)),
        "bytes": block.map(|block| block.bytes),
        "read_only": block.map(|block| block.is_read_only),
        "reads": block.map(|block| block.reads),
        "writes": block.map(|block| block.writes),
        "in_flight": block.map(|block| block.in_flight),
        "config": device.config,
        "dev_id": device.dev_id,
        "hba": device.hba,
        "name": device.name,
        "uio": device.uio,
        "owner": state,
        "owner_pid": process.map(|process| process.pid),
        "owner_command": process.map(|process| &process.command),
        "mounts": device.mounts(host),
    })
}
