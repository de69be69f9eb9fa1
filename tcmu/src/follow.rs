//! Does what the kernel asks for: makes and removes devices, and answers.
//!
//! serve -> **follow** -> devices, netlink
//!
//! Whoever makes or removes a device waits for the answer, without a limit. So every event about a device
//! of ours is answered, whatever goes wrong.
//!
//! Invariant: places in the table are given and taken in the order of the events; only what may block is
//! left to others, who are not waited for.
//!
//! Source: format reference 8.3.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use layers::tcmu_names::UioName;

use crate::devices::{Admitted, Devices};
use crate::error::Error;
use crate::netlink::{Event, EventKind, Netlink};
use crate::outcome;
use crate::uio::{self, Uio};
use crate::workers::Workers;

/// Images that are opened at the same time.
const OPENERS_MAX: usize = 32;

/// How often the end of the process is looked for while no event comes.
const EVENT_WAIT: Duration = Duration::from_millis(500);

/// Between two attempts to hear events, at most.
const REST_MAX: Duration = Duration::from_secs(10);

/// At the end, time for devices that are being made or removed.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// The thread that hears events.
#[derive(Debug)]
pub(crate) struct Follower {
    thread: JoinHandle<()>,
    is_ending: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Following {
    netlink: Arc<Netlink>,
    devices: Arc<Devices>,
    openers: Workers,
    is_ending: Arc<AtomicBool>,
}

impl Follower {
    /// Starts it.
    ///
    /// # Errors
    /// When there are no threads left.
    pub(crate) fn start(netlink: Arc<Netlink>, devices: &Arc<Devices>) -> Result<Self, Error> {
        let is_ending = Arc::<AtomicBool>::default();
        let following = Following {
            netlink,
            devices: Arc::clone(devices),
            openers: Workers::new("opener", OPENERS_MAX),
            is_ending: Arc::clone(&is_ending),
        };
        let thread = std::thread::Builder::new()
            .name("netlink".to_owned())
            .spawn(move || following.run())
            .map_err(|error| Error::io("start thread", error))?;
        Ok(Self { thread, is_ending })
    }

    /// Hears no more events; waits for what was begun, but not for ever.
    pub(crate) fn stop(self) {
        self.is_ending.store(true, Ordering::Release);
        if self.thread.join().is_err() {
            log::error!("the netlink thread has failed");
        }
    }
}

impl Following {
    fn run(&self) {
        let mut rest = EVENT_WAIT;
        while !self.is_ending() {
            match self.netlink.receive(EVENT_WAIT) {
                Ok(events) => {
                    rest = EVENT_WAIT;
                    events.into_iter().for_each(|event| self.act(event));
                }
                Err(error) => {
                    log::error!("{error}");
                    // What fails once may fail for ever; it must not fill the log.
                    rest = (rest * 2).min(REST_MAX);
                    let began = Instant::now();
                    while began.elapsed() < rest && !self.is_ending() {
                        std::thread::park_timeout(EVENT_WAIT);
                    }
                }
            }
        }
        let deadline = Instant::now() + END_TIMEOUT;
        if !self.openers.wait_until_idle(deadline)
            || !self.devices.closers.wait_until_idle(deadline)
        {
            log::warn!("ending while devices are made or removed");
        }
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    /// Does not block.
    fn act(&self, event: Event) {
        // The event has the name that sysfs has. Another handler's device is another daemon's.
        let Some(name) = UioName::parse(&event.device) else {
            return;
        };
        let (netlink, devices) = (Arc::clone(&self.netlink), Arc::clone(&self.devices));
        match event.kind {
            EventKind::Added => {
                let uio = Uio {
                    number: event.minor,
                    name: name.clone(),
                };
                let admitted = match devices.admit(uio, || {}) {
                    // Made while no daemon was there, and given up.
                    Err(_) if uio::find(event.minor).is_ok_and(|found| found.is_none()) => return,
                    admitted => admitted,
                };
                self.openers.submit(Box::new(move || {
                    let status = made(&devices, &name, admitted);
                    // Whoever waited for the answer does not look for another.
                    if answer(&netlink, &event, status) && status != 0 {
                        devices.forget(&name);
                    }
                }));
            }
            EventKind::Removed => {
                let device = devices.take(event.minor, &name);
                self.devices.closers.submit(Box::new(move || {
                    match device {
                        Some(device) => devices.close(device),
                        // Its image could not be opened.
                        None => devices.forget(&name),
                    }
                    answer(&netlink, &event, 0);
                }));
            }
            EventKind::Reconfigured => {
                self.openers.submit(Box::new(move || {
                    answer(&netlink, &event, -libc::EOPNOTSUPP);
                }));
            }
        }
    }
}

/// Serves the device; returns what the kernel is told.
fn made(devices: &Arc<Devices>, name: &UioName, admitted: Result<Option<Admitted>, Error>) -> i32 {
    let serve = || match admitted {
        Ok(Some(admitted)) => devices.serve(admitted),
        Ok(None) => Ok(()),
        Err(error) => {
            refuse(name, &error);
            Err(error)
        }
    };
    match catch_unwind(AssertUnwindSafe(serve)) {
        Ok(Ok(())) => return 0,
        Ok(Err(error)) => log::error!("{}: {error}", name.device),
        Err(_panic) => log::error!("{}: not served, for a fault in this program", name.device),
    }
    // As the C++ daemon, whatever the reason.
    -libc::ENOENT
}

/// A device that gets no place is told of where others tell of their images.
fn refuse(name: &UioName, error: &Error) {
    outcome::tell(name, Err(&error.to_string()));
    if let Error::DuplicatedId(id) = error
        && let Err(error) = layers::image::refuse(&name.config, &format!("duplicated dev id: {id}"))
    {
        log::warn!("{error}");
    }
}

/// False when nobody waits for it.
fn answer(netlink: &Netlink, event: &Event, status: i32) -> bool {
    netlink.answer(event, status).unwrap_or_else(|error| {
        log::error!("{error}: whoever made or removed {} hangs", event.device);
        true
    })
}
