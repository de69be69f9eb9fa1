//! One session with a VMM, as `vhost-user-backend` wants it.
//!
//! VMM -> vhost-user-backend -> **backend** -> workers
//!
//! Invariants
//! - a worker's state is locked by its own thread alone, but for the time of a run.
//! - `handle_event` fails only when the session is over: that is how worker threads are ended.
//!   (An exit event of the crate would leak a file descriptor per thread and session.)

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::VhostUserBackend;
use vmm_sys_util::epoll::EventSet;

use crate::cache_mode::CacheMode;
use crate::config_space::ConfigSpace;
use crate::disk::Disk;
use crate::features;
use crate::guest_memory::SharedGuestMemory;
use crate::mailbox::Mailbox;
use crate::pool::Pool;
use crate::queue::{SharedQueue, StopDeadline};
use crate::vring::DiskVring;
use crate::worker::Worker;

/// Most queues: the crate keeps the queues of a thread in a 64-bit mask.
pub const QUEUES_MAX: u16 = 64;

/// Writes that take longer to end with their session are worth a line in the log.
const WRITES_TIMEOUT: Duration = Duration::from_secs(1);

/// How the queues of a disk are laid out.
#[derive(Debug, Clone, Copy)]
pub struct QueueOptions {
    /// Queues a VMM may use, 1 to [`QUEUES_MAX`].
    pub num_queues: u16,
    /// Largest ring, a power of two.
    pub queue_size_max: u16,
    /// Worker threads, 1 to `num_queues`.
    pub threads: usize,
}

struct WorkerSlot {
    worker: Mutex<Worker>,
    mailbox: Arc<Mailbox>,
}

/// One session; see the module.
pub struct Backend {
    disk: Arc<Disk>,
    queues: Vec<Arc<SharedQueue>>,
    options: QueueOptions,
    config: ConfigSpace,
    cache: Arc<CacheMode>,
    memory: SharedGuestMemory,
    workers: Vec<WorkerSlot>,
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Backend {
    /// The token under which a worker's mailbox is registered.
    #[must_use]
    pub fn wake_token(&self) -> u16 {
        self.options.num_queues + 1
    }

    /// The token under which the listener is registered while the VMM is served.
    #[must_use]
    pub fn listener_token(&self) -> u16 {
        self.options.num_queues + 2
    }

    /// A session that serves `disk` to the owner of `memory`.
    ///
    /// # Errors
    /// From the operating system when there are no more file descriptors.
    pub fn new(
        disk: &Arc<Disk>,
        pool: &Arc<Pool>,
        memory: SharedGuestMemory,
        options: QueueOptions,
    ) -> io::Result<Self> {
        let stops = Arc::<StopDeadline>::default();
        let queue = |number| SharedQueue::new(Arc::clone(disk), number, Arc::clone(&stops));
        let cache = Arc::new(CacheMode::new(Arc::clone(disk.cache_switch())));
        let workers = (0..options.threads)
            .map(|_| {
                let mailbox = Arc::new(Mailbox::new()?);
                let (disk, pool) = (Arc::clone(disk), Arc::clone(pool));
                let worker = Worker::new(disk, pool, Arc::clone(&mailbox), Arc::clone(&cache));
                Ok(WorkerSlot {
                    worker: Mutex::new(worker),
                    mailbox,
                })
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            disk: Arc::clone(disk),
            queues: (0..options.num_queues).map(queue).map(Arc::new).collect(),
            config: ConfigSpace::new(
                disk.bytes(),
                disk.is_writable(),
                options.num_queues,
                options.queue_size_max,
            ),
            cache,
            options,
            memory,
            workers,
        })
    }

    /// The queues, in the VMM's order.
    #[must_use]
    pub fn queues(&self) -> &[Arc<SharedQueue>] {
        &self.queues
    }

    /// The mailboxes, one a worker thread.
    pub fn mailboxes(&self) -> impl Iterator<Item = &Arc<Mailbox>> {
        self.workers.iter().map(|slot| &slot.mailbox)
    }

    /// Takes no more requests and blocks until those in flight are answered, or `deadline`.
    pub fn drain(&self, deadline: Instant) {
        self.mailboxes().for_each(|mailbox| mailbox.start_drain());
        self.mailboxes()
            .for_each(|mailbox| mailbox.wait_idle(deadline));
    }

    /// Ends the worker threads; what is in flight is forgotten.
    pub fn close(&self) {
        self.mailboxes().for_each(|mailbox| mailbox.close());
    }

    /// After [`Backend::close`]: blocks until the pool has finished the writes it had begun for
    /// this session. Nobody may be served before, who might write the same sectors.
    pub fn wait_for_writes(&self) {
        for mailbox in self.mailboxes() {
            if !mailbox.wait_for_writes(WRITES_TIMEOUT) {
                log::warn!(
                    "{}: no VMM is served until the host's disk has finished the last one's writes",
                    self.disk.name()
                );
                while !mailbox.wait_for_writes(Duration::MAX) {}
            }
        }
    }
}

impl Backend {
    fn switch_cache(&self, writeback: bool) {
        let kept = self.cache.set_writeback(writeback);
        if let Err(error) = kept {
            self.disk.report(format_args!(
                "the next daemon will not know that the guest has switched write caching {}: {error}",
                if writeback { "on" } else { "off" }
            ));
        } else if !writeback {
            self.disk.report(format_args!(
                "the guest has switched write caching off: every write is flushed"
            ));
        }
    }
}

impl VhostUserBackend for Backend {
    type Bitmap = ();
    type Vring = DiskVring;

    fn num_queues(&self) -> usize {
        usize::from(self.options.num_queues)
    }

    fn max_queue_size(&self) -> usize {
        usize::from(self.options.queue_size_max)
    }

    fn features(&self) -> u64 {
        features::virtio_features(self.disk.is_writable())
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        features::protocol_features()
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.config.read(offset, size, self.cache.writeback())
    }

    /// A write of anything but the cache mode is ignored. To refuse it would end the session, and
    /// it may be the guest's doing.
    fn set_config(&self, offset: u32, bytes: &[u8]) -> io::Result<()> {
        match self.config.parse_write(offset, bytes) {
            Some(writeback) => self.switch_cache(writeback),
            None => self.disk.report(format_args!(
                "ignored a write of {} bytes at {offset} of the configuration",
                bytes.len()
            )),
        }
        Ok(())
    }

    fn acked_features(&self, features: u64) {
        self.cache.negotiate(features);
    }

    /// The new map is in place; when this returns, nobody uses the old one.
    fn update_memory(&self, _memory: SharedGuestMemory) -> io::Result<()> {
        self.mailboxes().for_each(|mailbox| mailbox.wait_for_pass());
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        let threads = self.options.threads;
        (0..threads)
            .map(|thread| {
                (thread..self.num_queues())
                    .step_by(threads)
                    .fold(0, |mask, queue| mask | 1 << queue)
            })
            .collect()
    }

    fn handle_event(
        &self,
        device_event: u16,
        _events: EventSet,
        vrings: &[DiskVring],
        thread_id: usize,
    ) -> io::Result<()> {
        let slot = self
            .workers
            .get(thread_id)
            .ok_or(io::ErrorKind::NotConnected)?;
        if device_event == self.wake_token() {
            slot.mailbox.consume_wake();
        } else if device_event == self.listener_token() {
            log::warn!(
                "{}: another VMM waits until the present one leaves",
                self.disk.name()
            );
        }
        if slot.mailbox.is_closing() {
            return Err(io::ErrorKind::NotConnected.into());
        }
        slot.worker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .run(vrings, &self.memory);
        Ok(())
    }
}
