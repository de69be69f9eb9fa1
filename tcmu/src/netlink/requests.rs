//! Requests to the kernel, and what has become of them.
//!
//! netlink -> **requests** -> message, socket
//!
//! They have a socket of their own: a verdict neither waits behind events, nor takes their room.
//!
//! Invariant: one request at a time, whose verdict is told from that of an earlier one by its number.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::message::{self, Request};
use super::socket::Socket;

/// Time for the kernel to answer, which it does before the request was sent.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// Those who ask, from any thread.
#[derive(Debug)]
pub(super) struct Requests(Mutex<State>);

#[derive(Debug)]
struct State {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    pub(super) fn open() -> io::Result<Self> {
        let socket = Socket::open()?;
        Ok(Self(Mutex::new(State {
            socket,
            sequence: 0,
        })))
    }

    /// Has the kernel do it, and returns the messages that it sent back. Blocks for a moment.
    pub(super) fn send(&self, request: Request) -> io::Result<Vec<u8>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.sequence = state.sequence.wrapping_add(1);
        let sequence = state.sequence;
        state.socket.send(request.numbered(sequence).bytes())?;
        let deadline = Instant::now() + ANSWER_TIME;
        let mut answer = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let datagram = state.socket.receive(left)?;
            if let Some(verdict) = message::verdict(&datagram, sequence) {
                return verdict.map(|()| answer);
            }
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            answer.extend(datagram);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::{CONTROL_FAMILY, family};

    /// The family that every kernel has; its group tells of families that come and go.
    fn ask(requests: &Requests, name: &str) -> io::Result<u16> {
        let answer = requests.send(Request::get_family(name))?;
        let family = family(&answer, CONTROL_FAMILY, "notify");
        Ok(family.unwrap().id)
    }

    fn is_unknown(asked: io::Result<u16>) -> bool {
        asked.unwrap_err().raw_os_error() == Some(libc::ENOENT)
    }

    #[test]
    fn the_kernel_answers_or_says_why_not() {
        let requests = Requests::open().unwrap();
        assert_eq!(ask(&requests, "nlctrl").unwrap(), CONTROL_FAMILY);
        assert!(is_unknown(ask(&requests, "no such family")));
        assert_eq!(ask(&requests, "nlctrl").unwrap(), CONTROL_FAMILY);
    }

    #[test]
    fn a_command_that_the_kernel_does_not_know_is_refused() {
        let requests = Requests::open().unwrap();
        let error = requests
            .send(Request::set_features(CONTROL_FAMILY))
            .unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EOPNOTSUPP));
    }

    #[test]
    fn every_thread_gets_the_verdict_on_its_own_request() {
        let requests = Requests::open().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let requests = &requests;
                scope.spawn(move || {
                    for _ in 0..50 {
                        match thread % 2 {
                            0 => assert_eq!(ask(requests, "nlctrl").unwrap(), CONTROL_FAMILY),
                            _ => assert!(is_unknown(ask(requests, "no such family"))),
                        }
                    }
                });
            }
        });
    }
}
