//! `obd detach DEVICE...|--all`.

use std::process::ExitCode;

use layers::command_line::console::say;
use layers::tcmu_names::OBD_ADAPTER;
use layers::tool::tcmu::{DetachOptions, Host, detach, devices, find};
use serde_json::json;

use crate::args::DetachArgs;
use crate::fail;

pub(crate) fn run(args: &DetachArgs, json: bool) -> layers::Result<ExitCode> {
    let host = Host::default();
    let options = DetachOptions { force: args.force };
    let meant: Vec<_> = match args.all {
        true => devices(&host)
            .into_iter()
            .filter(|device| device.hba == OBD_ADAPTER)
            .map(Ok)
            .collect(),
        false => args.devices.iter().map(|what| find(&host, what)).collect(),
    };
    let mut code = ExitCode::SUCCESS;
    let mut detached = Vec::new();
    for device in meant {
        let done = device.and_then(|device| detach(&host, &device, options).map(|()| device.name));
        match done {
            Ok(name) if json => detached.push(name),
            Ok(name) => say(format_args!("{name}: detached")),
            Err(error) => code = fail(&error),
        }
    }
    if json {
        say(json!({ "detached": detached }));
    }
    Ok(code)
}
