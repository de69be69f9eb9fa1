//! `obd why SOCKET|PID`: asks a running daemon what its disks have waited for.

mod control;

use std::fmt::Display;
use std::process::ExitCode;

use layers::exporter::DiskStory;
use layers::metrics::{Cause, SlowWait, Story};
use serde_json::Value;

use crate::args::WhyArgs;
use crate::fail;
use layers::command_line::console::{human, say};

pub(crate) fn run(args: &WhyArgs, json: bool) -> layers::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let mut documents: Vec<Value> = Vec::new();
    for socket in control::sockets(&args.daemon)? {
        match control::ask(&socket) {
            Ok(answer) if json => documents.push(control::parse(&answer, &socket)?),
            Ok(answer) => print(&control::parse(&answer, &socket)?),
            Err(error) => code = fail(&error),
        }
    }
    if json {
        say(Value::Array(documents));
    }
    Ok(code)
}

fn print(story: &DiskStory) {
    say(one_line(&story.disk));
    let start = &story.start;
    let running = seconds(start.running_seconds);
    line("daemon", format_args!("pid {}, {running}", story.pid));
    print_guest(story);
    match start.remote_layers {
        0 => line("layers", "all layers are on this host"),
        _ => print_remote(start),
    }
    if !start.slowest.is_empty() {
        say("");
        print_slowest(&start.slowest);
    }
}

fn print_guest(story: &DiskStory) {
    let start = &story.start;
    let event = |name, at: Option<f64>| {
        if let Some(at) = at {
            line(name, format_args!("{} after the start", seconds(at)));
        }
    };
    event("open", start.opened_seconds);
    event("first read", start.first_read_seconds);
    event("answered", start.first_answer_seconds);
    if start.first_read_seconds.is_none() {
        line("first read", "not yet");
    }
    let requests: u64 = story.requests.values().sum();
    let (read, written) = (human(story.read_bytes), human(story.written_bytes));
    line(
        "guest",
        format_args!("{requests} requests, {read} read, {written} written"),
    );
    if story.errors > 0 {
        line("errors", story.errors);
    }
    line(
        "not at once",
        format_args!(
            "{} requests, {} together",
            story.deferred,
            seconds(story.deferred_seconds)
        ),
    );
    if story.in_flight > 0 {
        let longest = seconds(story.busy_seconds);
        line(
            "waiting now",
            format_args!("{} requests, for {longest} at most", story.in_flight),
        );
    }
}

fn print_remote(start: &Story) {
    let total = human(start.remote_bytes);
    line(
        "remote",
        format_args!("{} layers of {total}", start.remote_layers),
    );
    let (guest, background) = (&start.guest, &start.background);
    let share = percent(guest.bytes + background.bytes, start.remote_bytes);
    let bytes = human(guest.bytes + background.bytes);
    let requests = guest.requests + background.requests;
    line(
        "fetched",
        format_args!("{bytes} ({share} of them) in {requests} requests"),
    );
    line(
        "of that",
        format_args!(
            "{} for the guest, {} in the background",
            human(guest.bytes),
            human(background.bytes)
        ),
    );
    let waits = &start.waits;
    line(
        "waits",
        format_args!(
            "{}, {} together, the longest {}",
            waits.count(),
            seconds(waits.seconds),
            seconds(waits.longest_seconds)
        ),
    );
    line(
        "because of",
        format_args!(
            "own fetch {}, fetch of others {}, corrupt cache {}",
            waits.fetch, waits.shared, waits.corrupt
        ),
    );
}

fn print_slowest(waits: &[SlowWait]) {
    row(["waited", "at", "layer", "offset", "bytes", "because of"]);
    for wait in waits {
        let cause = match wait.cause {
            Cause::Fetch => "own fetch",
            Cause::Shared => "fetch of others",
            Cause::Corrupt => "corrupt cache",
        };
        row([
            &seconds(wait.seconds),
            &seconds(wait.at_seconds),
            &short(&wait.layer),
            &wait.offset.to_string(),
            &wait.bytes.to_string(),
            cause,
        ]);
    }
}

fn row([waited, at, layer, offset, bytes, cause]: [&str; 6]) {
    let line = format!("  {waited:>9} {at:>9}  {layer:<12} {offset:>12} {bytes:>9}  {cause}");
    say(line.trim_end());
}

fn line(name: &str, value: impl Display) {
    say(format_args!("  {name:<13} {value}"));
}

/// Twelve characters of a digest, as other tools show it.
fn short(layer: &str) -> String {
    let hex = layer.split_once(':').map_or(layer, |(_, hex)| hex);
    one_line(&hex.chars().take(12).collect::<String>())
}

/// A name that a terminal can take.
fn one_line(name: &str) -> String {
    let visible = |char: char| if char.is_control() { '?' } else { char };
    name.chars().map(visible).collect()
}

/// A time for people.
fn seconds(time: f64) -> String {
    match time {
        time if time < 1.0 => format!("{:.1} ms", time * 1000.0),
        time if time < 120.0 => format!("{time:.2} s"),
        time if time < 7200.0 => format!("{:.0} min", time / 60.0),
        time => format!("{:.1} h", time / 3600.0),
    }
}

fn percent(part: u64, whole: u64) -> String {
    let share = part as f64 / whole.max(1) as f64;
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_names_are_short() {
        assert_eq!(seconds(0.0123), "12.3 ms");
        assert_eq!(seconds(1.5), "1.50 s");
        assert_eq!(seconds(600.0), "10 min");
        assert_eq!(seconds(9000.0), "2.5 h");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
        assert_eq!(short("\u{1b}[2J"), "?[2J");
    }
}
