//! `obd attach CONFIG`.

use std::process::ExitCode;
use std::time::Duration;

use layers::command_line::console::say;
use layers::tool::tcmu::{AttachOptions, Host, attach};
use serde_json::json;

use crate::args::AttachArgs;

pub(crate) fn run(args: &AttachArgs, json: bool) -> layers::Result<ExitCode> {
    let options = AttachOptions {
        name: args.name.clone(),
        dev_id: args.dev_id.clone(),
        data_area_mb: args.data_area_mb,
        timeout: Duration::from_secs(args.timeout.into()),
    };
    let attached = attach(&Host::default(), &args.config, &options)?;
    let node = format!("/dev/{}", attached.block.name);
    match json {
        true => say(json!({
            "device": node,
            "name": attached.name,
            "config": attached.config,
            "dev_id": args.dev_id.as_deref().unwrap_or(""),
            "bytes": attached.block.bytes,
            "read_only": attached.block.is_read_only,
        })),
        false => say(node),
    }
    Ok(ExitCode::SUCCESS)
}
