//! A process that takes snapshots under load is killed at any moment.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use layers::Image;

use crate::sequence::{BYTES, WRITERS, found_after_kill, write};
use crate::support::{Disk, KINDS, quick_scratch};

const DIR: &str = "OBD_TEST_SNAPSHOT_DIR";
const BEGIN: &str = "OBD_TEST_SNAPSHOT_BEGIN";

/// Disks, alternately of both kinds, and kills of each.
const DISKS: usize = 8;
const KILLS: usize = 10;

/// No more layers than an image may have.
const LAYERS_MAX: usize = 200;

/// Runs only in a process that the other test of this file starts.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let begin = std::env::var(BEGIN).unwrap();
    let begin: Vec<u64> = begin.split(' ').map(|it| it.parse().unwrap()).collect();
    let dir = Path::new(&dir);
    let sparse = dir.join("sparse").exists();
    let disk = Disk {
        dir: dir.to_owned(),
        kind: KINDS[usize::from(sparse)],
        bytes: BYTES,
    };
    let image = disk.open().unwrap();
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (image, begin) = (&image, begin[writer]);
            scope.spawn(move || write_for_ever(image, writer, begin));
        }
        take_for_ever(&disk, &image);
    });
}

fn write_for_ever(image: &Image, writer: usize, begin: u64) {
    for number in begin + 1.. {
        write(image, writer, number);
        say(&format!("ack {writer} {number}\n"));
    }
}

fn take_for_ever(disk: &Disk, image: &Image) {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    while disk.layers().len() < LAYERS_MAX {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        disk.prepare(&format!("{}-{number}", std::process::id()));
        say("begin\n");
        disk.snapshot(image).unwrap();
        say("taken\n");
    }
}

fn say(line: &str) {
    // In one piece.
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

#[test]
fn whatever_was_acknowledged_survives_a_kill_in_the_middle_of_snapshots() {
    let (mut snapshots, mut cut_short, mut finished) = (0, 0, 0);
    for number in 0..DISKS {
        let dir = quick_scratch();
        let kind = KINDS[number % 2];
        let disk = Disk::create(dir.path(), kind, BYTES);
        if number % 2 == 1 {
            std::fs::write(dir.path().join("sparse"), "").unwrap();
        }
        let mut end = [0; WRITERS];
        for _ in 0..KILLS {
            let lines = run_and_kill(dir.path(), end);
            let taken = lines.iter().filter(|line| line.ends_with("taken")).count();
            let begun = lines.iter().filter(|line| line.ends_with("begin")).count();
            snapshots += taken;
            cut_short += begun - taken;
            finished += usize::from(disk.intent().exists());
            let acked = acknowledged(&lines, end);
            let image = disk.open().unwrap();
            assert!(!disk.intent().exists());
            for writer in 0..WRITERS {
                end[writer] = found_after_kill(&image, writer, acked[writer]);
            }
        }
    }
    println!("{snapshots} taken, {cut_short} cut short, {finished} left an intent");
    assert!(snapshots > 0 && finished > 0, "{snapshots} {finished}");
}

/// The lines of a process that was killed after some of them.
fn run_and_kill(dir: &Path, end: [u64; WRITERS]) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::child", "--nocapture"])
        .env(DIR, dir)
        .env(BEGIN, end.map(|it| it.to_string()).join(" "))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let goal = 30 + fastrand::usize(..400);
    let mut said: Vec<_> = lines.by_ref().take(goal).map(Result::unwrap).collect();
    child.kill().unwrap();
    // What the pipe still has was acknowledged as well; the last line may be cut short.
    said.extend(lines.map(Result::unwrap));
    let status = child.wait().unwrap();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(9)
    );
    said
}

fn acknowledged(lines: &[String], mut end: [u64; WRITERS]) -> [u64; WRITERS] {
    for line in lines {
        let Some((_, ack)) = line.split_once("ack ") else {
            continue;
        };
        let (writer, number) = ack.split_once(' ').unwrap();
        let writer: usize = writer.parse().unwrap();
        end[writer] = end[writer].max(number.parse().unwrap());
    }
    end
}
