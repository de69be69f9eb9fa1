//! wip
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::error::Error;

/// Kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// a
    Added,
    /// r
    Removed,
    /// c
    Reconfigured,
}

/// Event.
#[derive(Debug, Clone)]
pub struct Event {
    /// k
    pub kind: EventKind,
    /// d
    pub device: String,
    /// m
    pub minor: u32,
    /// i
    pub device_id: u32,
}

/// Socket.
#[derive(Debug)]
pub struct Netlink {
    fd: OwnedFd,
    family: u16,
}

fn attr(kind: u16, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(((data.len() + 4) as u16).to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(data);
    while out.len() % 4 != 0 {
        out.push(0);
    }
    out
}

fn message(family: u16, cmd: u8, version: u8, attrs: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(((20 + attrs.len()) as u32).to_le_bytes());
    out.extend(family.to_le_bytes());
    out.extend(1u16.to_le_bytes());
    out.extend([0; 8]);
    out.extend([cmd, version, 0, 0]);
    out.extend(attrs);
    out
}

fn attrs(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut out = Vec::new();
    while bytes.len() >= 4 {
        let len = u16::from_le_bytes([bytes[0], bytes[1]]) as usize;
        let kind = u16::from_le_bytes([bytes[2], bytes[3]]) & 0x3fff;
        if len < 4 || len > bytes.len() {
            break;
        }
        out.push((kind, bytes[4..len].to_vec()));
        bytes = &bytes[((len + 3) & !3).min(bytes.len())..];
    }
    out
}

impl Netlink {
    /// Opens.
    pub fn open() -> Result<Self, Error> {
        let fail = |e| Error::io("open netlink", e);
        let fd = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                libc::NETLINK_GENERIC,
            )
        };
        if fd < 0 {
            return Err(fail(io::Error::last_os_error()));
        }
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut this = Self { fd, family: 16 };
        this.send(&message(16, 3, 1, &attr(2, b"TCM-USER\0")))
            .map_err(fail)?;
        let bytes = this.recv(5000).map_err(fail)?;
        let mut group = 0;
        for (kind, data) in attrs(bytes.get(20..).unwrap_or_default()) {
            if kind == 1 {
                this.family = u16::from_le_bytes([data[0], data[1]]);
            }
            if kind == 7 {
                for (_, one) in attrs(&data) {
                    for (k, v) in attrs(&one) {
                        if k == 2 {
                            group = u32::from_le_bytes([v[0], v[1], v[2], v[3]]);
                        }
                    }
                }
            }
        }
        let size: libc::c_int = 4 << 20;
        let raw = this.fd.as_raw_fd();
        unsafe {
            libc::setsockopt(
                raw,
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const size).cast(),
                4,
            );
            if libc::setsockopt(
                raw,
                libc::SOL_NETLINK,
                libc::NETLINK_ADD_MEMBERSHIP,
                (&raw const group).cast(),
                4,
            ) != 0
            {
                return Err(fail(io::Error::last_os_error()));
            }
        }
        Ok(this)
    }
    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent =
            unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
    fn recv(&self, millis: i32) -> io::Result<Vec<u8>> {
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        if unsafe { libc::poll(&raw mut poll, 1, millis) } <= 0 {
            return Ok(Vec::new());
        }
        let mut buf = vec![0u8; 1 << 16];
        let got = unsafe { libc::recv(self.fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len(), 0) };
        if got < 0 {
            return Err(io::Error::last_os_error());
        }
        buf.truncate(got as usize);
        Ok(buf)
    }
    /// Announces.
    pub fn announce(&self) -> Result<(), Error> {
        self.send(&message(self.family, 7, 2, &attr(9, &[1])))
            .map_err(|e| Error::io("announce", e))
    }
    /// Receives.
    pub fn receive(&self, timeout: Duration) -> Result<Vec<Event>, Error> {
        let bytes = self
            .recv(timeout.as_millis() as i32)
            .map_err(|e| Error::io("receive", e))?;
        let mut rest = &bytes[..];
        let mut out = Vec::new();
        while rest.len() >= 20 {
            let len = u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if len < 20 || len > rest.len() {
                break;
            }
            let kind = match rest[16] {
                1 => Some(EventKind::Added),
                2 => Some(EventKind::Removed),
                3 => Some(EventKind::Reconfigured),
                _ => None,
            };
            if let Some(kind) =
                kind.filter(|_| u16::from_le_bytes([rest[4], rest[5]]) == self.family)
            {
                let mut event = Event {
                    kind,
                    device: String::new(),
                    minor: 0,
                    device_id: 0,
                };
                for (k, v) in attrs(&rest[20..len]) {
                    let n = || u32::from_le_bytes([v[0], v[1], v[2], v[3]]);
                    match k {
                        1 => {
                            event.device = String::from_utf8_lossy(&v)
                                .trim_end_matches('\0')
                                .to_owned()
                        }
                        2 => event.minor = n(),
                        8 => event.device_id = n(),
                        _ => {}
                    }
                }
                out.push(event);
            }
            rest = &rest[((len + 3) & !3).min(rest.len())..];
        }
        Ok(out)
    }
    /// Answers.
    pub fn answer(&self, event: &Event, status: i32) -> Result<(), Error> {
        let done = match event.kind {
            EventKind::Added => 4,
            EventKind::Removed => 5,
            EventKind::Reconfigured => 6,
        };
        let mut body = attr(7, &status.to_le_bytes());
        body.extend(attr(8, &event.device_id.to_le_bytes()));
        self.send(&message(self.family, done, 2, &body))
            .map_err(|e| Error::io("answer", e))
    }
}
