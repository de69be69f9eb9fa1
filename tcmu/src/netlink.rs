//! What the kernel wants made and removed, and what it is answered: generic netlink family TCM-USER.
//!
//! serve -> **netlink** (message, socket) -> the kernel
//!
//! Whoever writes `enable` waits, without a limit, until the event was answered. So no event may be
//! lost: they are taken as soon as they come, the receive buffer is large, and should one find no
//! room all the same the kernel is told, and fails that `enable`.
//!
//! Source: format reference 8.3; drivers/target/target_core_user.c (tcmu_netlink_event_send);
//! netlink(7).

mod message;
mod socket;

pub use message::{Event, EventKind, events};

use std::io;
use std::time::{Duration, Instant};

use crate::error::Error;
use message::{CONTROL_FAMILY, Family, Request};
use socket::Socket;

const FAMILY: &str = "TCM-USER";
const GROUP: &str = "config";

/// Time for the kernel to say which number the family has.
const ANSWER_TIME: Duration = Duration::from_secs(5);

/// A socket that hears all events. Sending and receiving may go on at the same time.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    family: u16,
}

impl Netlink {
    /// Joins the family's group. Blocks for a moment.
    ///
    /// # Errors
    /// When target_core_user is not loaded, or the process may not.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open().map_err(|error| Error::io("open netlink socket", error))?;
        let family = resolve(&socket)?;
        let join = |error: io::Error| {
            let op = match error.raw_os_error() {
                Some(libc::EPERM) => {
                    "join netlink group of TCM-USER (needs CAP_NET_ADMIN, or root)"
                }
                _ => "join netlink group of TCM-USER",
            };
            Error::io(op, error)
        };
        socket.join(family.group).map_err(join)?;
        Ok(Self {
            socket,
            family: family.id,
        })
    }

    /// Tells the kernel that events will be answered. One too old to wait for answers may refuse.
    ///
    /// # Errors
    /// From the socket.
    pub fn announce(&self) -> Result<(), Error> {
        let request = Request::set_features(self.family);
        self.socket
            .send(request.bytes())
            .map_err(|error| Error::io("announce daemon by netlink", error))
    }

    /// Waits for events, up to `timeout`; there may be several, or none.
    ///
    /// # Errors
    /// From the socket.
    pub fn receive(&self, timeout: Duration) -> Result<Vec<Event>, Error> {
        let received = self.socket.receive(timeout);
        let datagram = received.map_err(|error| Error::io("receive netlink events", error))?;
        Ok(events(&datagram, self.family))
    }

    /// Answers an event: 0, or a negated errno.
    ///
    /// # Errors
    /// From the socket.
    pub fn answer(&self, event: &Event, status: i32) -> Result<(), Error> {
        let request = Request::answer(self.family, event, status);
        self.socket
            .send(request.bytes())
            .map_err(|error| Error::io("answer netlink event", error))
    }
}

fn resolve(socket: &Socket) -> Result<Family, Error> {
    let fail = |error| Error::io("ask for netlink family TCM-USER", error);
    let request = Request::get_family(FAMILY);
    socket.send(request.bytes()).map_err(fail)?;
    let deadline = Instant::now() + ANSWER_TIME;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let datagram = socket.receive(left).map_err(fail)?;
        if let Some(error) = message::refusal(&datagram) {
            return Err(match error.raw_os_error() {
                Some(libc::ENOENT) => Error::NoModule,
                _ => fail(error),
            });
        }
        if let Some(family) = message::family(&datagram, CONTROL_FAMILY, GROUP) {
            return Ok(family);
        }
        if left.is_zero() {
            return Err(fail(io::ErrorKind::TimedOut.into()));
        }
    }
}
