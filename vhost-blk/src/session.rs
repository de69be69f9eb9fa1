//! Serves one disk on one socket: one VMM after another.
//!
//! socket -> **session** -> backend -> workers
//!
//! Disk and pool live as long as the process, everything else as long as one connection: guest
//! memory, queues, worker threads. A VMM that comes back finds the socket where it was. One that
//! connects while another is served waits in the socket's backlog, and the log says so once.
//!
//! Invariants
//! - when a session is over, its worker threads have ended, its guest memory is unmapped, and what
//!   it had begun to write is written, before the next connection is accepted.
//!
//! Threads are leaked, one set for each failure, when the system has no means left to start a
//! session: by the crate when `VhostUserDaemon::new` fails midway, and here when a thread cannot
//! be made wakeable. They sleep and hold no guest memory.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vhost::vhost_user::Error as ProtocolError;
use vhost::vhost_user::Listener;
use vhost_user_backend::{Error as DaemonError, ShutdownHandle, VhostUserDaemon};
use vm_memory::GuestMemoryAtomic;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use crate::backend::{Backend, QueueOptions};
use crate::disk::Disk;
use crate::guest_memory::GuestMemory;
use crate::pool::Pool;
use crate::vring::with_queues;

/// Longest time that the end of the process waits for requests in flight.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a connection that could not be served for want of resources.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Ends the serving of one disk from another thread.
#[derive(Debug)]
pub struct Stopper {
    stopped: EventConsumer,
    stop: EventNotifier,
    current: Mutex<Current>,
    stopping: Condvar,
}

#[derive(Default)]
struct Current {
    stopping: bool,
    session: Option<(Arc<Backend>, ShutdownHandle)>,
}

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current")
            .field("stopping", &self.stopping)
            .field("connected", &self.session.is_some())
            .finish()
    }
}

impl Stopper {
    /// Not stopped yet.
    ///
    /// # Errors
    /// From the operating system when there are no more file descriptors.
    pub fn new() -> io::Result<Self> {
        let (stopped, stop) =
            new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)?;
        Ok(Self {
            stopped,
            stop,
            current: Mutex::default(),
            stopping: Condvar::new(),
        })
    }

    /// Accepts no more connections; answers the requests in flight of the present one, for at
    /// most [`DRAIN_TIMEOUT`], and closes it. Blocks that long.
    pub fn stop(&self) {
        let session = {
            let mut current = self.lock();
            current.stopping = true;
            current.session.take()
        };
        self.stopping.notify_all();
        drop(self.stop.notify());
        if let Some((backend, connection)) = session {
            backend.drain(Instant::now() + DRAIN_TIMEOUT);
            connection.shutdown();
        }
    }

    /// Waits until stopped, or for `timeout`.
    fn wait(&self, timeout: Duration) {
        drop(
            self.stopping
                .wait_timeout_while(self.lock(), timeout, |current| !current.stopping),
        );
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has been accepted. When it is too late for that, it is closed at once.
    fn begin_session(&self, backend: &Arc<Backend>, connection: Option<ShutdownHandle>) {
        let Some(connection) = connection else { return };
        let mut current = self.lock();
        if current.stopping {
            connection.shutdown();
        } else {
            current.session = Some((Arc::clone(backend), connection));
        }
    }

    fn end_session(&self) {
        self.lock().session = None;
    }
}

/// Serves `disk` to whoever connects to `listener`, until `stopper` is used. Blocks.
///
/// # Errors
/// When connections cannot be waited for.
pub fn serve_connections(
    disk: &Arc<Disk>,
    pool: &Arc<Pool>,
    listener: UnixListener,
    options: QueueOptions,
    stopper: &Stopper,
) -> io::Result<()> {
    let mut events = Events::new(&listener, stopper)?;
    let mut listener = Listener::from(listener);
    while events.wait_for_connection()? {
        match serve_connection(disk, pool, &mut listener, options, stopper) {
            Ok(()) => log::info!("{}: VMM disconnected", disk.name()),
            Err(error) => {
                log::warn!("{}: connection failed: {error}", disk.name());
                if !matches!(error, DaemonError::HandleRequest(_)) {
                    // Not the VMM's doing, and so likely to happen again at once.
                    stopper.wait(RETRY_INTERVAL);
                }
            }
        }
    }
    Ok(())
}

/// Waits for a connection or the end.
struct Events {
    epoll: Epoll,
}

impl Events {
    const CONNECTION: u64 = 0;
    const STOP: u64 = 1;

    fn new(listener: &UnixListener, stopper: &Stopper) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        for (fd, token) in [
            (listener.as_raw_fd(), Self::CONNECTION),
            (stopper.stopped.as_raw_fd(), Self::STOP),
        ] {
            epoll.ctl(
                ControlOperation::Add,
                fd,
                EpollEvent::new(EventSet::IN, token),
            )?;
        }
        Ok(Self { epoll })
    }

    /// False when it is the end.
    fn wait_for_connection(&mut self) -> io::Result<bool> {
        let mut events = [EpollEvent::default(); 2];
        loop {
            match self.epoll.wait(-1, &mut events) {
                Ok(0) => {}
                Ok(count) => {
                    let stopped = |event: &EpollEvent| event.data() == Self::STOP;
                    return Ok(!events.iter().take(count).any(stopped));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Ends the worker threads of a session however it ends: the daemon waits for them when it is
/// dropped. No write is begun any more, and none is under way afterwards.
struct CloseOnDrop<'b>(&'b Backend);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
        self.0.wait_for_writes();
    }
}

/// Serves the connection that waits at `listener` until the VMM leaves.
fn serve_connection(
    disk: &Arc<Disk>,
    pool: &Arc<Pool>,
    listener: &mut Listener,
    options: QueueOptions,
    stopper: &Stopper,
) -> Result<(), DaemonError> {
    let memory = GuestMemoryAtomic::new(GuestMemory::new());
    let backend = Backend::new(disk, pool, memory.clone(), options);
    let backend = Arc::new(backend.map_err(DaemonError::StartDaemon)?);
    let mut daemon = with_queues(backend.queues(), || {
        VhostUserDaemon::new("vhost-user".to_owned(), Arc::clone(&backend), memory)
    })?;
    // Dropped before the daemon.
    let _close = CloseOnDrop(&backend);
    let workers = daemon.get_epoll_handlers();
    let wakeable = workers.iter().zip(backend.mailboxes());
    let wakeable = wakeable.map(|(worker, mailbox)| {
        let token = u64::from(backend.wake_token());
        worker.register_listener(mailbox.wake_fd(), EventSet::IN, token)
    });
    if let Err(error) = wakeable.collect::<io::Result<()>>() {
        log::error!("{}: worker threads are left behind", disk.name());
        // On drop it would wait for threads that nobody can wake.
        Box::leak(Box::new(daemon));
        return Err(DaemonError::StartDaemon(error));
    }
    daemon.start(listener)?;
    log::info!("{}: VMM connected", disk.name());
    if let Some(worker) = workers.first() {
        let token = u64::from(backend.listener_token());
        // When it fails, no word is said of a VMM that waits.
        drop(worker.register_listener(
            listener.as_raw_fd(),
            EventSet::IN | EventSet::ONE_SHOT,
            token,
        ));
    }
    stopper.begin_session(&backend, daemon.shutdown_handle());
    let result = daemon.wait();
    stopper.end_session();
    match result {
        Ok(())
        | Err(DaemonError::HandleRequest(
            ProtocolError::Disconnected | ProtocolError::PartialMessage,
        )) => Ok(()),
        Err(error) => Err(error),
    }
}
