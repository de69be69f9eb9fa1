//! One device: its part of the kernel's memory, its disk, its threads.
//!
//! devices -> **device** -> dispatch (ring thread), workers -> execute
//!
//! A device lives as long as the kernel's does. Its disk may be missing: after a restart the image
//! may not open at once. Then commands fail, rather than to hang the host, until it does.
//!
//! Invariants
//! - a worker holds the mapping as long as it works on a command's data.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use layers::Service;
use rustix::event::EventfdFlags;

use crate::backstore::Backstore;
use crate::disk::Disk;
use crate::dispatch::{End, RingThread};
use crate::error::Error;
use crate::ring::{self, Completer, Region, Taker};
use crate::scsi::limits::BLOCK_LEN;
use crate::uio::Uio;
use crate::workers::Workers;
use crate::write_queue::WriteQueue;

/// Commands of one device that may wait for the network or a disk at once.
const READERS_MAX: usize = 32;

/// Further commands of one device that write, discard or flush.
const WRITERS_MAX: usize = 8;

/// A part of the data area that one command may take.
const TRANSFER_SHARE: usize = 4;

/// Limits of a transfer, in blocks.
const TRANSFER_BLOCKS: std::ops::RangeInclusive<usize> = 128..=8192;

/// What its threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) uio: Uio,
    pub(crate) region: Arc<Region>,
    pub(crate) completer: Completer,
    disk: OnceLock<Disk>,
    pub(crate) readers: Workers,
    pub(crate) writers: Workers,
    pub(crate) write_queue: WriteQueue,
    closing: Mutex<bool>,
    closes: Condvar,
    transfer_blocks_max: u32,
    serial: String,
}

impl Shared {
    /// The disk, if its image is open.
    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.disk.get()
    }

    /// Waits this long, or until the device goes away; then false.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .closes
            .wait_timeout_while(closing, time, |closing| !*closing);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Tells the kernel that there are answers.
    pub(crate) fn tell_kernel(&self) {
        if let Err(error) = self.region.notify() {
            log::debug!("{}: tell the kernel: {error}", self.uio.name.device);
        }
    }

    fn close(&self) {
        *self.closing.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.closes.notify_all();
    }

    fn open_disk(&self, service: &Service) -> layers::Result<()> {
        let name = &self.uio.name;
        let disk = Disk::open(name, self.serial.clone(), self.transfer_blocks_max, service)?;
        log::info!(
            "serving image={} access={} layers={} virtual_size={} device={} uio={}",
            name.config.display(),
            if disk.facts().is_writable { "rw" } else { "ro" },
            disk.image().layer_count(),
            disk.image().virtual_size(),
            name.device,
            self.uio.number,
        );
        // Only one thread opens it.
        drop(self.disk.set(disk));
        Ok(())
    }
}

/// See the module's description.
#[derive(Debug)]
pub struct Device {
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    ring_thread: Mutex<Option<JoinHandle<()>>>,
}

impl Device {
    /// Takes up the device `uio`, whose memory is `region`; serves it from [`Device::start`] on.
    ///
    /// # Errors
    /// `Ring` when its ring makes no sense.
    pub fn over(uio: Uio, region: impl Into<Arc<Region>>) -> Result<(Self, Taker), Error> {
        let region = region.into();
        let (taker, completer) = ring::open(Arc::clone(&region))?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Error::io("make eventfd", error.into()))?;
        let transfer = completer.data_bytes() / TRANSFER_SHARE / BLOCK_LEN;
        let transfer = transfer.clamp(*TRANSFER_BLOCKS.start(), *TRANSFER_BLOCKS.end());
        let serial = Backstore::of(&uio.name).serial();
        let shared = Shared {
            uio,
            region,
            completer,
            disk: OnceLock::new(),
            readers: Workers::new("read", READERS_MAX),
            writers: Workers::new("write", WRITERS_MAX),
            write_queue: WriteQueue::default(),
            closing: Mutex::new(false),
            closes: Condvar::new(),
            transfer_blocks_max: u32::try_from(transfer).unwrap_or(u32::MAX),
            serial,
        };
        let device = Self {
            shared: Arc::new(shared),
            stop: Arc::new(stop),
            ring_thread: Mutex::default(),
        };
        Ok((device, taker))
    }

    /// Opens its image and writes the result file. Blocks.
    ///
    /// # Errors
    /// As [`layers::Image::open`]. May be tried again.
    pub fn open_disk(&self, service: &Service) -> layers::Result<()> {
        self.shared.open_disk(service)
    }

    /// Answers commands from now on. When it does no more, `ended` is told why, by the thread that did.
    ///
    /// # Errors
    /// `Io` when there are no threads left.
    pub fn start(
        &self,
        taker: Taker,
        ended: impl FnOnce(End) + Send + 'static,
    ) -> Result<(), Error> {
        let thread = RingThread::new(Arc::clone(&self.shared), taker, Arc::clone(&self.stop));
        let spawned = std::thread::Builder::new()
            .name(format!("uio{}", self.shared.uio.number))
            .spawn(move || ended(thread.run()))
            .map_err(|error| Error::io("start thread", error))?;
        *self.thread() = Some(spawned);
        Ok(())
    }

    fn thread(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        self.ring_thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Who it is.
    #[must_use]
    pub fn uio(&self) -> &Uio {
        &self.shared.uio
    }

    /// Its disk, if the image is open.
    #[must_use]
    pub(crate) fn disk(&self) -> Option<&Disk> {
        self.shared.disk()
    }

    /// Waits this long, or until the device goes away; then false.
    #[must_use]
    pub fn pause(&self, time: Duration) -> bool {
        self.shared.pause(time)
    }

    /// Takes no more commands and waits for those that are being done, but not beyond `deadline`: a
    /// read may wait for a dead registry. False when some still are.
    pub fn stop(&self, deadline: Instant) -> bool {
        self.shared.close();
        if let Err(error) = rustix::io::write(&*self.stop, &[1; 8]) {
            log::error!("{}: {error}", self.shared.uio.name.device);
        }
        if self.thread().take().is_some_and(|it| it.join().is_err()) {
            log::error!("{}: its thread has failed", self.shared.uio.name.device);
        }
        let readers = self.shared.readers.wait_until_idle(deadline);
        let writers = self.shared.writers.wait_until_idle(deadline);
        readers && writers
    }

    /// Makes what was written safe from a power cut. Blocks.
    pub fn flush(&self) {
        if let Some(disk) = self.disk()
            && let Err(error) = disk.image().flush()
        {
            log::error!("{}: flush failed: {error}", disk.name());
        }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(error: rustix::io::Errno) -> Self {
        Self::io("use a file descriptor", io::Error::from(error))
    }
}
