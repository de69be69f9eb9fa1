//! `obd diff A B`.

use std::process::ExitCode;

use layers::Service;
use layers::command_line::console::{human, progress_bar, reporter, say};
use layers::tool::{self, DiffRange, DiffReport, Disk};
use serde_json::json;

use crate::args::DiffArgs;
use crate::fail;

/// As with diff(1), 1 is taken.
const TROUBLE: u8 = 2;

pub(crate) fn run(args: &DiffArgs, json: bool) -> layers::Result<ExitCode> {
    let (report, raw) = match compare(args) {
        Ok(report) => report,
        Err(error) => {
            fail(&error);
            return Ok(ExitCode::from(TROUBLE));
        }
    };
    if json {
        say(document(&report));
    } else {
        print(args, &report, raw);
    }
    Ok(match report.is_same() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The outcome, and which of the two are raw disks.
fn compare(args: &DiffArgs) -> layers::Result<(DiffReport, [bool; 2])> {
    let service = Service::load_or_default(args.service.service_config.as_deref())?;
    let one = Disk::open(&args.one, &service)?;
    let other = Disk::open(&args.other, &service)?;
    let bar = progress_bar("comparing");
    let report = tool::diff(&one, &other, &mut reporter(&bar));
    bar.finish_and_clear();
    Ok((report?, [one.is_raw(), other.is_raw()]))
}

fn print(args: &DiffArgs, report: &DiffReport, raw: [bool; 2]) {
    for range in &report.ranges {
        say(format_args!("{}: {}", place(range), sectors(range.sectors)));
    }
    let [one, other] = report.sizes_bytes;
    if one != other {
        let (one_name, other_name) = (args.one.display(), args.other.display());
        // A layer that lost its header is compared as well: here that shows.
        let kind = |this: bool, that: bool| if this && !that { " (raw disk)" } else { "" };
        let [one_raw, other_raw] = raw;
        let (one_kind, other_kind) = (kind(one_raw, other_raw), kind(other_raw, one_raw));
        say(format_args!(
            "sizes: {one} bytes {one_name}{one_kind}, {other} bytes {other_name}{other_kind}"
        ));
    }
    match report.sectors() {
        0 if one == other => say(format_args!("the same: disks of {}", human(one))),
        0 => say("the longer one ends in zeros; nothing else is different"),
        number => say(format_args!("{} different", sectors(number))),
    }
}

fn place(range: &DiffRange) -> String {
    match (range.first_mib, range.last_mib) {
        (first, last) if first == last => format!("MiB {first}"),
        (first, last) => format!("MiB {first} to {last}"),
    }
}

fn sectors(number: u64) -> String {
    match number {
        1 => "1 sector".to_owned(),
        _ => format!("{number} sectors"),
    }
}

fn document(report: &DiffReport) -> serde_json::Value {
    let ranges = report.ranges.iter().map(|range| {
        json!({
            "first_mib": range.first_mib,
            "last_mib": range.last_mib,
            "sectors": range.sectors,
        })
    });
    json!({
        "same": report.is_same(),
        "sizes_bytes": report.sizes_bytes,
        "sectors": report.sectors(),
        "ranges": ranges.collect::<Vec<_>>(),
    })
}
