//! What the kernel wants made and removed, and what it is answered: generic netlink family TCM-USER.
//!
//! serve -> **netlink** (requests, message, socket) -> the kernel
//!
//! Whoever writes `enable` waits, without a limit, until the event was answered. So no event may be
//! lost: they are taken as soon as they come, the receive buffer is large, and should one find no
//! room all the same the kernel is told, and fails that `enable`. An answer that the kernel refuses
//! is an error for the same reason.
//!
//! Source: format reference 8.3; drivers/target/target_core_user.c (tcmu_netlink_event_send);
//! netlink(7).

mod message;
mod requests;
mod socket;

pub use message::{Event, EventKind, events};

use std::io;
use std::time::Duration;

use crate::error::Error;
use message::{CONTROL_FAMILY, Request};
use requests::Requests;
use socket::Socket;

const FAMILY: &str = "TCM-USER";
const GROUP: &str = "config";

/// Hears all events, and answers them. Both may go on at the same time.
#[derive(Debug)]
pub struct Netlink {
    events: Socket,
    requests: Requests,
    family: u16,
}

impl Netlink {
    /// Joins the family's group. Blocks for a moment.
    ///
    /// # Errors
    /// When target_core_user is not loaded, or the process may not.
    pub fn open() -> Result<Self, Error> {
        let requests = Requests::open().map_err(|error| Error::io("open netlink socket", error))?;
        let answer = requests.send(Request::get_family(FAMILY));
        let answer = answer.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => Error::NoModule,
            _ => Error::io("ask for netlink family TCM-USER", error),
        })?;
        let family = message::family(&answer, CONTROL_FAMILY, GROUP).ok_or_else(|| {
            let error = io::Error::other("the kernel does not tell its number and group");
            Error::io("ask for netlink family TCM-USER", error)
        })?;
        let events = Socket::open().map_err(|error| Error::io("open netlink socket", error))?;
        events
            .join(family.group)
            .map_err(|error| refused("join netlink group of TCM-USER", error))?;
        Ok(Self {
            events,
            requests,
            family: family.id,
        })
    }

    /// Tells the kernel that events will be answered. One too old to wait for answers may refuse.
    /// Blocks for a moment.
    ///
    /// # Errors
    /// When the process may not.
    pub fn announce(&self) -> Result<(), Error> {
        match self.requests.send(Request::set_features(self.family)) {
            Err(error) if error.raw_os_error() != Some(libc::EOPNOTSUPP) => {
                Err(refused("announce daemon by netlink", error))
            }
            _ => Ok(()),
        }
    }

    /// Waits for events, up to `timeout`; there may be several, or none.
    ///
    /// # Errors
    /// From the socket.
    pub fn receive(&self, timeout: Duration) -> Result<Vec<Event>, Error> {
        let received = self.events.receive(timeout);
        let datagram = received.map_err(|error| Error::io("receive netlink events", error))?;
        Ok(events(&datagram, self.family))
    }

    /// Answers an event: 0, or a negated errno. False when nobody waits for the answer, or does any
    /// more. Blocks for a moment.
    ///
    /// # Errors
    /// When the kernel does not take it: whoever waits for it goes on waiting.
    pub fn answer(&self, event: &Event, status: i32) -> Result<bool, Error> {
        let request = Request::answer(self.family, event, status);
        match self.requests.send(request) {
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(error) => Err(refused("answer netlink event", error)),
        }
    }
}

/// Says what is missing.
fn refused(op: &str, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(libc::EPERM) => Error::io(&format!("{op} (needs CAP_NET_ADMIN, or root)"), error),
        _ => Error::io(op, error),
    }
}
