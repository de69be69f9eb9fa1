//! Random 4 KiB requests to SCSI disks of `overlaybd-tcmu` and of tcmu-runner in one boot of one container host.
//! Prints a JSON line for every run; `scripts/bench-tcmu` makes a table.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use qemu_tests::host_vm::{DATA, HostVm, PROGRAMS, SCRATCH};
use qemu_tests::lab::Lab;
use qemu_tests::programs::Programs;
use serde_json::{Value, json};

/// All disks are this large.
const DISK_MIB: u64 = 256;

/// Name, direction of fio, depth, and the disks: of overlaybd-tcmu, of tcmu-runner.
const WORKLOADS: [(&str, &str, u32, usize); 3] = [
    ("read-1", "randread", 1, 0),
    ("read-16", "randread", 16, 0),
    ("write-16", "randwrite", 16, 1),
];

/// Measures both daemons in turns.
#[derive(Parser, Debug)]
struct Args {
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Length of one run.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
    /// Only tcmu-runner, to try the method.
    #[arg(long)]
    peer_only: bool,
}

/// Disks for reading and for writing.
struct Server {
    name: &'static str,
    disks: [String; 2],
}

fn main() -> Result<()> {
    let args = Args::parse();
    Lab::run(|lab| {
        let raw = lab.dir().join("disk.raw");
        let layer = lab.dir().join("layer.obd");
        make_disk(&raw, &layer)?;
        let mut host = lab
            .container_host("bench")
            .file(&raw, "disk.raw")
            .file(&layer, "layer.obd")
            .boot()?;
        let mut servers = vec![start_peer(&mut host)?];
        if !args.peer_only {
            servers.push(start_ours(&mut host)?);
            ensure_same_bytes(&mut host, &servers)?;
        }
        for round in 0..args.rounds {
            for workload in WORKLOADS {
                for server in &servers {
                    let line = run(&mut host, server, workload, args.seconds)?;
                    writeln!(std::io::stdout(), "{}", with_round(line, round)?)?;
                }
                // The other one first in the next turn.
                servers.reverse();
            }
        }
        host.shut_down()
    })
}

/// Half of every 4 KiB block is random, half is text: LZ4 leaves about half.
fn make_disk(raw: &Path, layer: &Path) -> Result<()> {
    let mut random = File::open("/dev/urandom")?;
    let mut bytes = Vec::new();
    let mut half = [0_u8; 2048];
    for _ in 0..(DISK_MIB << 20) / 4096 {
        random.read_exact(&mut half)?;
        bytes.extend_from_slice(&half);
        bytes.extend_from_slice(&[b'.'; 2048]);
    }
    std::fs::write(raw, bytes)?;
    let status = Command::new(&Programs::get()?.obd)
        .arg("import")
        .args([raw, layer])
        .args(["--algorithm", "lz4", "--bs", "4"])
        .stdout(std::io::stderr())
        .status()?;
    ensure!(status.success(), "obd import: {status}");
    Ok(())
}

/// tcmu-runner on raw files; the one that is written is a copy.
fn start_peer(host: &mut HostVm<'_>) -> Result<Server> {
    host.run(&format!(
        "cp {DATA}/disk.raw {SCRATCH}/read.raw; cp {DATA}/disk.raw {SCRATCH}/write.raw"
    ))?;
    host.start_tcmu_runner()?;
    let size = format!("dev_size={}", DISK_MIB << 20);
    let mut attach = |number, file: &str| {
        host.attach_target(number, &format!("qcow/{SCRATCH}/{file}"), &[&size])
    };
    Ok(Server {
        name: "tcmu-runner",
        disks: [attach(0, "read.raw")?, attach(1, "write.raw")?],
    })
}

/// Our daemon on an LZ4 image, and on the same with an append-only layer on top.
fn start_ours(host: &mut HostVm<'_>) -> Result<Server> {
    let layer = json!([{ "file": format!("{SCRATCH}/layer.obd") }]);
    let read = json!({ "repoBlobUrl": "", "lowers": layer, "resultFile": format!("{SCRATCH}/read.result") });
    let write = json!({ "repoBlobUrl": "", "lowers": layer, "resultFile": format!("{SCRATCH}/write.result"),
        "upper": { "data": format!("{SCRATCH}/upper.data"), "index": format!("{SCRATCH}/upper.index") } });
    host.run(&format!(
        "set -e; cp {DATA}/layer.obd {SCRATCH}/
         {PROGRAMS}/overlaybd-create {SCRATCH}/upper.data {SCRATCH}/upper.index 0
         echo '{read}' >{SCRATCH}/read.json; echo '{write}' >{SCRATCH}/write.json"
    ))?;
    host.configure_overlaybd_tcmu(json!({}))?;
    host.start_overlaybd_tcmu()?;
    let mut attach = |number, config: &str| {
        host.attach_target(
            number,
            &format!("overlaybd/{SCRATCH}/{config}"),
            &["nl_reply_supported=-1"],
        )
    };
    Ok(Server {
        name: "overlaybd-tcmu",
        disks: [attach(2, "read.json")?, attach(3, "write.json")?],
    })
}

/// It also brings every byte into the page cache.
fn ensure_same_bytes(host: &mut HostVm<'_>, servers: &[Server]) -> Result<()> {
    let mut sums = Vec::new();
    for disk in servers.iter().flat_map(|server| &server.disks) {
        sums.push(host.run(&format!("sha256sum <{disk}"))?);
    }
    let first = sums.first();
    ensure!(
        sums.iter().all(|sum| Some(sum) == first),
        "disks differ: {sums:?}"
    );
    Ok(())
}

fn run(
    host: &mut HostVm<'_>,
    server: &Server,
    (workload, direction, depth, disk): (&str, &str, u32, usize),
    seconds: u64,
) -> Result<Value> {
    let disk = server.disks.get(disk).context("a server has two disks")?;
    let output = host.run(&format!(
        "echo none >/sys/block/{name}/queue/scheduler
         fio --name=x --filename={disk} --direct=1 --ioengine=libaio --rw={direction} --bs=4k --iodepth={depth} \
             --time_based --ramp_time=1 --runtime={seconds} --norandommap --output-format=json",
        name = disk.trim_start_matches("/dev/")
    ))?;
    let json = output.find('{').and_then(|start| output.get(start..));
    let result: Value = serde_json::from_str(json.context("fio printed no JSON")?)?;
    let side = if direction == "randwrite" {
        "write"
    } else {
        "read"
    };
    let number = |path: &str| result.pointer(&format!("/jobs/0/{side}/{path}")).cloned();
    Ok(json!({
        "workload": workload,
        "server": server.name,
        "iops": number("iops"),
        "p99_us": number("clat_ns/percentile/99.000000").and_then(|ns| ns.as_u64()).map(|ns| ns / 1000),
    }))
}

fn with_round(mut line: Value, round: u32) -> Result<Value> {
    let fields = line.as_object_mut().context("a line is an object")?;
    fields.insert("round".to_owned(), json!(round));
    Ok(line)
}
