//! `obd verify CONFIG|FILE...`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use layers::ErrorKind;
use layers::Service;
use layers::tool::{self, FileReport};
use serde_json::{Value, json};

use crate::args::VerifyArgs;
use layers::command_line::console::{human, progress_bar, reporter, say};

/// Faults of one file that are printed; the rest is counted.
const FAULTS_SHOWN: usize = 20;

pub(crate) fn run(args: &VerifyArgs, json: bool) -> layers::Result<ExitCode> {
    let service = Service::load_or_default(args.service.service_config.as_deref())?;
    let bar = progress_bar("verifying");
    let mut reports = Vec::new();
    for path in &args.files {
        if looks_like_json(path) {
            reports.extend(tool::verify_config(path, &service, &mut reporter(&bar)));
        } else {
            reports.push(tool::verify_file(path, &mut reporter(&bar)));
        }
    }
    bar.finish_and_clear();
    if json {
        say(Value::Array(reports.iter().map(document).collect()));
    } else {
        reports.iter().for_each(print);
    }
    let sound = reports.iter().all(FileReport::is_sound);
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// No layer format starts with a brace.
fn looks_like_json(path: &Path) -> bool {
    let mut start = [0; 64];
    let read = File::open(path)
        .and_then(|mut file| file.read(&mut start))
        .unwrap_or(0);
    let text = start.get(..read).unwrap_or_default();
    text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

fn print(report: &FileReport) {
    let (name, checked) = (&report.name, human(report.checked_bytes));
    if report.is_sound() {
        let how = match report.has_checksums {
            true => "every block's checksum and every index rule hold",
            false => "every index rule holds; the file has no checksums",
        };
        say(format_args!("{name}: sound: {checked} read, {how}"));
        return;
    }
    let damaged = report
        .faults
        .iter()
        .any(|fault| fault.kind() == ErrorKind::Corrupt);
    let verdict = if damaged {
        "DAMAGED"
    } else {
        "cannot be checked"
    };
    let faults = if report.fault_count == 1 {
        "fault"
    } else {
        "faults"
    };
    say(format_args!(
        "{name}: {verdict}: {} {faults}",
        report.fault_count
    ));
    for fault in report.faults.iter().take(FAULTS_SHOWN) {
        say(format_args!("  {fault}"));
    }
    let hidden = report.fault_count.saturating_sub(FAULTS_SHOWN);
    if hidden > 0 {
        say(format_args!("  and {hidden} more"));
    }
}

fn document(report: &FileReport) -> Value {
    json!({
        "file": report.name,
        "sound": report.is_sound(),
        "checked_bytes": report.checked_bytes,
        "checksums": report.has_checksums,
        "fault_count": report.fault_count,
        "faults": report.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
    })
}
