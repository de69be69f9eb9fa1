//! File systems that are full.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use layers::config::DownloadConfig;

use crate::support::{Disk, Origin, PIECE, config, content, partial, room, whole};

/// A small file system; unmounted on drop.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    /// `None` for those who may not mount; a check that did not run must be seen.
    fn mount(at: &'a Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        let not_run = "NOT RUN: download to a full file system (mounting one needs root)";
        writeln!(std::io::stderr(), "{not_run}").unwrap();
        None
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0).status().ok();
    }
}

fn patient() -> DownloadConfig {
    DownloadConfig {
        try_cnt: 100,
        ..config()
    }
}

#[test]
fn a_full_file_system_ends_the_download_and_gets_its_space_back() {
    let room = room();
    let Some(_small) = Small::mount(&room.dir) else {
        return;
    };
    let origin = Origin::new(content(20 * PIECE));
    let disk = Disk::start(&origin, &room.dir, &room.cache, &patient());
    disk.wait();
    assert!(!disk.switch.is_local());
    assert!(!origin.asked().is_empty());
    assert_eq!(std::fs::read_dir(&room.dir).unwrap().count(), 0);
}

#[test]
fn a_full_file_system_keeps_what_was_there_before() {
    let room = room();
    let Some(_small) = Small::mount(&room.dir) else {
        return;
    };
    let origin = Origin::new(content(20 * PIECE));
    std::fs::write(partial(&room.dir), &origin.bytes[..PIECE]).unwrap();
    let disk = Disk::start(&origin, &room.dir, &room.cache, &patient());
    disk.wait();
    assert!(partial(&room.dir).exists() && !whole(&room.dir).exists());
}
