//! Finds control sockets of daemons, and asks there.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layers::exporter::{CONTROL_SUFFIX, WHY_PATH};
use layers::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;

const OP: &str = "ask the daemon";

/// A daemon that is alive answers at once.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A story has a few KiB.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The control sockets of `daemon`, a process number or the path of a disk's socket.
pub(super) fn sockets(daemon: &Path) -> Result<Vec<PathBuf>> {
    let number = daemon.to_str().and_then(|text| text.parse::<u32>().ok());
    if let Some(pid) = number {
        return of_process(pid);
    }
    let mut path = daemon.as_os_str().to_owned();
    if !path.as_encoded_bytes().ends_with(CONTROL_SUFFIX.as_bytes()) {
        path.push(CONTROL_SUFFIX);
    }
    Ok(vec![path.into()])
}

fn of_process(pid: u32) -> Result<Vec<PathBuf>> {
    let proc = Path::new("/proc").join(pid.to_string());
    let fail =
        |what: &str, error| Error::io(OP, error).in_file(proc.join(what).display().to_string());
    let files = fs::read_dir(proc.join("fd")).map_err(|error| fail("fd", error))?;
    let table = proc.join("net/unix");
    let table = fs::read(&table).map_err(|error| fail("net/unix", error))?;
    let table = String::from_utf8_lossy(&table);
    // A file may be closed while it is looked at.
    let inodes: BTreeSet<String> = files
        .filter_map(|file| fs::read_link(file.ok()?.path()).ok())
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?;
            Some(inode.strip_suffix(']')?.to_owned())
        })
        .collect();
    let sockets: BTreeSet<PathBuf> = table
        .lines()
        .filter_map(listed)
        .filter(|(inode, path)| inodes.contains(*inode) && path.ends_with(CONTROL_SUFFIX))
        .map(|(_, path)| as_seen_by(&proc, Path::new(path)))
        .collect();
    if sockets.is_empty() {
        let detail = format!("process {pid} has no control socket: it serves no disk of ours");
        return Err(Error::new(ErrorKind::NotFound, OP, detail));
    }
    Ok(sockets.into_iter().collect())
}

/// Inode and path of a line of `/proc/PID/net/unix`: six fields, inode, path.
fn listed(line: &str) -> Option<(&str, &str)> {
    let mut rest = line;
    for _ in 0..6 {
        rest = rest.trim_start().split_once(' ')?.1;
    }
    rest.trim_start().split_once(' ')
}

/// A process may have another working directory and other mounts.
fn as_seen_by(proc: &Path, path: &Path) -> PathBuf {
    let seen = match path.strip_prefix("/") {
        Ok(below_root) => proc.join("root").join(below_root),
        Err(_) => proc.join("cwd").join(path),
    };
    // The plain path is better to read, and shorter than a socket's path may be.
    match path.is_absolute() && path.exists() {
        true => path.to_owned(),
        false => seen,
    }
}

/// What the daemon says at `socket`.
pub(super) fn ask(socket: &Path) -> Result<Vec<u8>> {
    let shown = socket.display().to_string();
    let fail = |error: std::io::Error| {
        let what = match error.kind() {
            std::io::ErrorKind::NotFound => "no daemon serves a disk there",
            std::io::ErrorKind::ConnectionRefused => "the daemon that served there is gone",
            std::io::ErrorKind::PermissionDenied => "only the daemon's user and root may ask",
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => {
                "the daemon does not answer"
            }
            _ => return Error::io(OP, error).in_file(&shown),
        };
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Error::new(kind, OP, what).in_file(&shown)
    };
    let answer = talk(socket).map_err(fail)?;
    let body = body(&answer).map(<[u8]>::to_vec);
    body.ok_or_else(|| {
        let detail = "the answer is not that of a daemon";
        Error::new(ErrorKind::Unsupported, OP, detail).in_file(&shown)
    })
}

fn talk(socket: &Path) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {WHY_PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The body of an answer that says 200. It is not chunked: the server knows its length.
fn body(answer: &[u8]) -> Option<&[u8]> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end)?;
    let status = head.split(|byte| *byte == b' ').nth(1)?;
    (head.starts_with(b"HTTP/1.") && status == b"200").then(|| body.get(4..))?
}

/// Reads what the daemon said.
pub(super) fn parse<T: DeserializeOwned>(answer: &[u8], socket: &Path) -> Result<T> {
    serde_json::from_slice(answer).map_err(|error| {
        let detail = format!("the answer is not that of this version: {error}");
        Error::new(ErrorKind::Unsupported, OP, detail).in_file(socket.display().to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_of_sockets_is_taken_apart() {
        let line = "00000000a6f2c1d3: 00000002 00000000 00010000 0001 01 34567 /run/a b.control";
        assert_eq!(listed(line), Some(("34567", "/run/a b.control")));
        let unnamed = "00000000a6f2c1d3: 00000003 00000000 00000000 0001 03 34568";
        assert_eq!(listed(unnamed), None);
    }

    #[test]
    fn only_a_good_answer_has_a_body() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\na: b\r\n\r\n{}"), Some(&b"{}"[..]));
        assert_eq!(body(b"HTTP/1.1 404 Not Found\r\n\r\n{}"), None);
        assert_eq!(body(b"SSH-2.0 200 x\r\n\r\n{}"), None);
        assert_eq!(body(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
