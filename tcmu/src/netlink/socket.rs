//! A netlink socket.
//!
//! netlink -> **socket** -> the kernel
//!
//! Invariant: what is received was sent by the kernel: any process may send to a netlink port.
//!
//! Source: netlink(7), recvfrom(2).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Room for events that wait to be received, in bytes of kernel memory.
const RECEIVE_BYTES: libc::c_int = 4 << 20;

/// The longest datagram.
const DATAGRAM_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Socket(OwnedFd);

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: makes a file descriptor, reads no memory of ours.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, flags, libc::NETLINK_GENERIC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it was just made, and nobody else has it.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        socket.bind()?;
        Ok(socket)
    }

    /// Takes a port of its own. A socket without has the kernel's, to which no event is delivered: it
    /// counts as the sender's.
    fn bind(&self) -> io::Result<()> {
        // SAFETY: all zeros are an address.
        let mut any: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        any.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).map_err(io::Error::other)?;
        let len = libc::socklen_t::try_from(size_of_val(&any)).map_err(io::Error::other)?;
        let place = &raw const any;
        // SAFETY: reads `len` bytes of `any`, which is that long.
        match unsafe { libc::bind(self.0.as_raw_fd(), place.cast(), len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Hears what is sent to `group` from now on; what finds no room fails at its sender.
    pub(super) fn join(&self, group: u32) -> io::Result<()> {
        let group = libc::c_int::try_from(group).map_err(io::Error::other)?;
        // Beyond what ordinary processes may have, for those that may; else as much as there is.
        self.set(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, RECEIVE_BYTES)
            .or_else(|_| self.set(libc::SOL_SOCKET, libc::SO_RCVBUF, RECEIVE_BYTES))?;
        self.set(libc::SOL_NETLINK, libc::NETLINK_BROADCAST_ERROR, 1)?;
        // Else one event without room costs all that come before the buffer was emptied.
        self.set(libc::SOL_NETLINK, libc::NETLINK_NO_ENOBUFS, 1)?;
        self.set(libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    fn set(&self, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let len = size_of::<libc::c_int>();
        let len = libc::socklen_t::try_from(len).map_err(io::Error::other)?;
        let value = &raw const value;
        // SAFETY: reads `len` bytes of `value`, which is that long.
        match unsafe { libc::setsockopt(self.0.as_raw_fd(), level, name, value.cast(), len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let (data, len) = (bytes.as_ptr().cast(), bytes.len());
        // SAFETY: reads `len` bytes of `bytes`.
        match unsafe { libc::send(self.0.as_raw_fd(), data, len, 0) } {
            sent if sent < 0 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// The next datagram of the kernel; empty when none comes in this time.
    pub(super) fn receive(&self, timeout: Duration) -> io::Result<Vec<u8>> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut ready = [PollFd::from_borrowed_fd(self.0.as_fd(), PollFlags::IN)];
        match rustix::event::poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            other => other?,
        };
        let mut buf = vec![0; DATAGRAM_BYTES];
        // SAFETY: all zeros are an address.
        let mut from: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut from_len =
            libc::socklen_t::try_from(size_of_val(&from)).map_err(io::Error::other)?;
        let place = &raw mut from;
        // SAFETY: writes at most `buf.len()` bytes to `buf`, and `from_len` bytes to `from`.
        let received = unsafe {
            libc::recvfrom(
                self.0.as_raw_fd(),
                buf.as_mut_ptr().cast(),
                buf.len(),
                0,
                place.cast(),
                &raw mut from_len,
            )
        };
        let Ok(len) = usize::try_from(received) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(Vec::new()),
                _ => Err(error),
            };
        };
        buf.truncate(if from.nl_pid == 0 { len } else { 0 });
        Ok(buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(socket: &Socket, name: libc::c_int) -> libc::c_int {
        let mut value = 0;
        let mut len = libc::socklen_t::try_from(size_of_val(&value)).unwrap();
        let place = &raw mut value;
        let fd = socket.0.as_raw_fd();
        // SAFETY: writes at most `len` bytes to `value`, which is that long.
        let got =
            unsafe { libc::getsockopt(fd, libc::SOL_NETLINK, name, place.cast(), &raw mut len) };
        assert_eq!(got, 0);
        value
    }

    #[test]
    fn a_socket_has_a_port_so_that_events_reach_it() {
        let socket = Socket::open().unwrap();
        // SAFETY: all zeros are an address.
        let mut own: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        let mut len = libc::socklen_t::try_from(size_of_val(&own)).unwrap();
        let (fd, place) = (socket.0.as_raw_fd(), &raw mut own);
        // SAFETY: writes at most `len` bytes to `own`, which is that long.
        let got = unsafe { libc::getsockname(fd, place.cast(), &raw mut len) };
        assert_eq!(got, 0);
        assert_ne!(own.nl_pid, 0);
    }

    #[test]
    fn what_finds_no_room_fails_at_its_sender_and_costs_nothing_else() {
        let socket = Socket::open().unwrap();
        // Of the family that every kernel has.
        socket.join(16).unwrap();
        assert_eq!(get(&socket, libc::NETLINK_BROADCAST_ERROR), 1);
        assert_eq!(get(&socket, libc::NETLINK_NO_ENOBUFS), 1);
    }

    #[test]
    fn nothing_comes_of_a_wait_that_ends() {
        let socket = Socket::open().unwrap();
        assert!(socket.receive(Duration::ZERO).unwrap().is_empty());
    }
}
