//! `obd doctor [--unstick]`.

use std::process::ExitCode;

use layers::command_line::console::say;
use layers::tool::tcmu::{Check, Host, examine, unstick};
use serde_json::json;

use crate::args::DoctorArgs;

pub(crate) fn run(args: &DoctorArgs, json: bool) -> ExitCode {
    let host = Host::default();
    let freed = if args.unstick {
        unstick(&host)
    } else {
        Vec::new()
    };
    let checks = examine(&host);
    let is_well = checks.iter().all(|check| check.is_good);
    if json {
        let one = |check: &Check| json!({ "check": check.name, "ok": check.is_good, "detail": check.detail });
        let all: Vec<_> = checks.iter().map(one).collect();
        say(json!({ "ok": is_well, "checks": all, "unstuck": freed }));
    } else {
        for line in &freed {
            say(line);
        }
        for check in &checks {
            let word = if check.is_good { "ok" } else { "BAD" };
            say(format_args!("{word:<4} {}: {}", check.name, check.detail));
        }
    }
    match is_well {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
