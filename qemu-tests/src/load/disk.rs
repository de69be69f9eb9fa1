//! One vhost-user-blk disk through the `blkio` crate: one queue and its buffers.
//!
//! measure, verify -> **disk** -> blkio -> socket and shared rings
//!
//! Memory shared with the server is one region of equal slots. The server may write a slot while
//! a request is in flight, so slots are only ever copied from and filled, never borrowed.
//!
//! Source: blkio 0.5 (`Blkio`, `Blkioq`), VirtIO 1.2 section 5.2.

use std::fmt;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};

/// A disk that completes nothing for this long while requests are in flight has stalled.
pub const STALLED_AFTER: Duration = Duration::from_secs(20);

/// How many completions one wait takes at most.
const COMPLETIONS_PER_WAIT: usize = 64;

/// Buffers start at multiples of this many bytes.
const SLOT_ALIGNMENT: usize = 4096;

/// How the client learns that a request has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Completions {
    /// Sleeps until the server signals, as a guest with interrupts does.
    Interrupt,
    /// Spins on the used ring and asks for no signal: takes the client's wake-up out of the figure.
    Poll,
}

/// A part of the disk that is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Where it starts, in bytes; a multiple of 512.
    pub offset: u64,
    /// Bytes; a multiple of 512, at most the slot size.
    pub len: usize,
}

/// A request that the server has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// The slot that it was submitted with.
    pub slot: usize,
    /// Zero, or a negative errno.
    pub status: i32,
}

/// How to use a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// How the client waits.
    pub completions: Completions,
    /// Also writes and flushes.
    pub writable: bool,
    /// Requests in flight at most.
    pub slots: usize,
    /// Bytes of a request at most.
    pub slot_bytes: usize,
}

/// A connected disk with its queue started.
pub struct Disk {
    // Dropped before `driver`: the queue lives in the transport's memory.
    queue: Blkioq,
    driver: Blkio,
    buffers: MemoryRegion,
    slot_bytes: usize,
    in_flight: Vec<bool>,
    completions: [MaybeUninit<Completion>; COMPLETIONS_PER_WAIT],
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("slot_bytes", &self.slot_bytes)
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Disk {
    /// Connects to the server that listens at `socket` and starts one queue.
    ///
    /// # Errors
    /// No server there, a refused handshake, no memory for the buffers.
    pub fn connect(socket: &Path, setup: Setup) -> Result<Self> {
        let slots = setup.slots;
        ensure!(slots > 0, "at least one request must be in flight");
        ensure!(setup.slot_bytes > 0, "a request is at least one sector");
        let path = socket.to_str().context("the socket path is not UTF-8")?;
        let mut driver = Blkio::new("virtio-blk-vhost-user")?;
        driver.set_str("path", path)?;
        driver.set_bool("read-only", !setup.writable)?;
        driver
            .connect()
            .with_context(|| format!("connect to {path}"))?;
        let (interrupt, poll) = match setup.completions {
            Completions::Interrupt => (1, 0),
            Completions::Poll => (0, 1),
        };
        driver.set_i32("num-queues", interrupt)?;
        driver.set_i32("num-poll-queues", poll)?;
        let mut started = driver.start().with_context(|| format!("start {path}"))?;
        let queue = started
            .queues
            .pop()
            .or_else(|| started.poll_queues.pop())
            .context("the driver started no queue")?;

        let slot_bytes = setup.slot_bytes.next_multiple_of(SLOT_ALIGNMENT);
        let alignment = usize::try_from(driver.get_u64("mem-region-alignment")?)?;
        let bytes = slots
            .checked_mul(slot_bytes)
            .and_then(|bytes| bytes.checked_next_multiple_of(alignment))
            .context("the buffers exceed the address space")?;
        let buffers = driver.alloc_mem_region(bytes)?;
        driver.map_mem_region(&buffers)?;
        Ok(Self {
            queue,
            driver,
            buffers,
            slot_bytes,
            in_flight: vec![false; slots],
            completions: [const { MaybeUninit::uninit() }; COMPLETIONS_PER_WAIT],
        })
    }

    /// Size of the disk in bytes.
    ///
    /// # Errors
    /// The server does not answer the config request.
    pub fn capacity(&self) -> Result<u64> {
        Ok(self.driver.get_u64("capacity")?)
    }

    /// How many requests can be in flight.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.in_flight.len()
    }

    /// Queues a read into `slot`; the server hears of it at the next [`Disk::wait`].
    ///
    /// # Errors
    /// The slot is taken or does not exist, or the request does not fit in it.
    pub fn submit_read(&mut self, slot: usize, span: Span) -> Result<()> {
        let buffer = self.take_slot(slot, span.len)?;
        self.queue
            .read(span.offset, buffer, span.len, slot, ReqFlags::empty());
        Ok(())
    }

    /// Queues a write of what `slot` holds.
    ///
    /// # Errors
    /// As [`Disk::submit_read`].
    pub fn submit_write(&mut self, slot: usize, span: Span) -> Result<()> {
        let buffer = self.take_slot(slot, span.len)?;
        self.queue
            .write(span.offset, buffer, span.len, slot, ReqFlags::empty());
        Ok(())
    }

    /// Queues a flush under the name of `slot`.
    ///
    /// # Errors
    /// The slot is taken or does not exist.
    pub fn submit_flush(&mut self, slot: usize) -> Result<()> {
        self.take_slot(slot, 0)?;
        self.queue.flush(slot, ReqFlags::empty());
        Ok(())
    }

    fn take_slot(&mut self, slot: usize, len: usize) -> Result<*mut u8> {
        ensure!(len <= self.slot_bytes, "{len} bytes exceed a buffer");
        let buffer = self.idle_slot(slot)?;
        if let Some(flag) = self.in_flight.get_mut(slot) {
            *flag = true;
        }
        Ok(buffer)
    }

    /// Sends what was submitted, waits for at least one completion and appends all there are
    /// to `finished`.
    ///
    /// # Errors
    /// Nothing finished within [`STALLED_AFTER`], or the server answered for a request that was
    /// never sent.
    pub fn wait(&mut self, finished: &mut Vec<Finished>) -> Result<()> {
        let mut timeout = STALLED_AFTER;
        let count = self
            .queue
            .do_io(&mut self.completions, 1, Some(&mut timeout), None)
            .map_err(|error| anyhow!("wait for completions: {error}"))?;
        for completion in self.completions.iter().take(count) {
            // SAFETY: do_io has written the first `count` elements.
            let completion = unsafe { completion.assume_init_ref() };
            let slot = completion.user_data;
            match self.in_flight.get_mut(slot) {
                Some(flag) if *flag => *flag = false,
                _ => return Err(anyhow!("completion of slot {slot}, which is idle")),
            }
            let status = completion.ret;
            finished.push(Finished { slot, status });
        }
        Ok(())
    }

    /// Copies the first `bytes.len()` bytes of an idle slot.
    ///
    /// # Errors
    /// A request is in flight there, or the slot is shorter.
    pub fn copy_from_slot(&self, slot: usize, bytes: &mut [u8]) -> Result<()> {
        ensure!(bytes.len() <= self.slot_bytes, "the slot is shorter");
        let buffer = self.idle_slot(slot)?;
        // SAFETY: `buffer` is valid for `slot_bytes` bytes, `bytes` is not longer, and the two
        // cannot overlap since `bytes` is exclusive and never lies in the region.
        unsafe { std::ptr::copy_nonoverlapping(buffer, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies `bytes` to `at` inside an idle slot.
    ///
    /// # Errors
    /// A request is in flight there, or the slot is shorter.
    pub fn copy_to_slot(&self, slot: usize, at: usize, bytes: &[u8]) -> Result<()> {
        let end = at.checked_add(bytes.len());
        let fits = end.is_some_and(|end| end <= self.slot_bytes);
        ensure!(fits, "the slot is shorter");
        let buffer = self.idle_slot(slot)?.wrapping_add(at);
        // SAFETY: `at..at + bytes.len()` is inside the slot, which no request uses; `bytes` never
        // lies in the region.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer, bytes.len()) };
        Ok(())
    }

    /// Overwrites an idle slot, so that bytes the server fails to write are seen.
    ///
    /// # Errors
    /// A request is in flight there.
    pub fn fill_slot(&self, slot: usize, byte: u8) -> Result<()> {
        let buffer = self.idle_slot(slot)?;
        // SAFETY: `buffer` is valid for `slot_bytes` bytes and no request uses it.
        unsafe { std::ptr::write_bytes(buffer, byte, self.slot_bytes) };
        Ok(())
    }

    fn idle_slot(&self, slot: usize) -> Result<*mut u8> {
        let busy = self.in_flight.get(slot).context("no such slot")?;
        ensure!(!busy, "slot {slot} is in flight");
        let base = std::ptr::with_exposed_provenance_mut::<u8>(self.buffers.addr);
        Ok(base.wrapping_add(slot * self.slot_bytes))
    }
}
