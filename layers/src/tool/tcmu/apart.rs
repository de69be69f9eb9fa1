//! A write to the kernel that may never return, done by a process of its own.
//!
//! tree -> **apart** -> `obd write-attribute` -> tree
//!
//! Nothing ends a process one of whose threads waits in the kernel for a daemon's answer, not even SIGKILL. The child
//! waits instead; it holds no file of its parent, so that whoever reads the parent's output sees its end.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::tree::{RealTree, Tree};

/// The command of this program that does the write: its arguments are the path and the value.
pub const WRITE_ATTRIBUTE: &str = "write-attribute";

/// What [`write_attribute`] returns for an error without a number.
const NO_NUMBER: u8 = 255;

/// Does the write; returns 0 or the error's number, as exit status for the parent. Blocks, perhaps without end.
#[must_use]
pub fn write_attribute(path: &Path, value: &str) -> u8 {
    match RealTree.write(path, value) {
        Ok(()) => 0,
        Err(error) => error
            .raw_os_error()
            .and_then(|number| u8::try_from(number).ok())
            .unwrap_or(NO_NUMBER),
    }
}

/// Has a child of this program write `value`. The child is left behind when the kernel takes longer than `limit`.
pub(super) fn write_in_time(path: &Path, value: &str, limit: Duration) -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(WRITE_ATTRIBUTE).arg(path).arg(value);
    run_in_time(&mut command, limit)
}

fn run_in_time(command: &mut Command, limit: Duration) -> io::Result<()> {
    let mut child = command
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let (sender, ended) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("enable".to_owned())
        // Nobody listens any more when the time is over.
        .spawn(move || drop(sender.send(child.wait())))?;
    let status = ended
        .recv_timeout(limit)
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer within --timeout"))??;
    result_of(status)
}

fn result_of(status: ExitStatus) -> io::Result<()> {
    match status.code() {
        Some(0) => Ok(()),
        Some(number) if number != i32::from(NO_NUMBER) => Err(io::Error::from_raw_os_error(number)),
        _ => Err(io::Error::other(format!(
            "the process that writes ended with {status}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(script: &str, limit: Duration) -> io::Result<()> {
        run_in_time(Command::new("sh").args(["-c", script]), limit)
    }

    #[test]
    fn the_error_number_comes_from_the_child() {
        let error = child("exit 11", Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        child("exit 0", Duration::from_secs(60)).unwrap();
        assert!(child("exit 255", Duration::from_secs(60)).is_err());
        assert!(child("kill -9 $$", Duration::from_secs(60)).is_err());
    }

    #[test]
    fn a_child_that_waits_is_left_behind() {
        let error = child("exec sleep 3", Duration::from_millis(10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_refused_write_is_an_error_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("enable");
        assert_eq!(i32::from(write_attribute(&file, "1")), libc::ENOENT);
        std::fs::write(&file, "").unwrap();
        assert_eq!(write_attribute(&file, "1"), 0);
        assert_eq!(std::fs::read(&file).unwrap(), b"1");
    }
}
