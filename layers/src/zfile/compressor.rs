//! Compresses batches of blocks, on the calling thread or on several, in order.
//!
//! file -> **zfile builder** -> tar -> io
//!
//! Batches go to the workers in turn, and each worker hands them back in the order it got them,
//! so the oldest batch under way is always the next one of the worker whose turn it is. No
//! worker waits for another, and the output does not depend on their number.
//!
//! Invariants
//! - batches come back in the order they were submitted.
//! - at most [`BATCHES_PER_WORKER`] batches a worker are under way: memory is bounded.
//!
//! Source: format reference 2.5, 2.7.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::checksum;
use super::codec::Encoder;
use super::format::Algorithm;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{ZFILE_BLOCK_BYTES_MAX, ZFILE_BLOCK_GROWTH_BYTES_MAX};

/// Bytes before compression that a full batch holds: enough that handing it to another thread
/// costs nothing next to compressing it.
pub(super) const BATCH_BYTES: usize = 256 << 10;

// A batch holds whole blocks of every allowed size.
const _: () = assert!((BATCH_BYTES as u64).is_multiple_of(ZFILE_BLOCK_BYTES_MAX as u64));

/// One in work and one waiting, so that a worker never waits for the writer.
const BATCHES_PER_WORKER: usize = 2;

const CRC_BYTES: usize = 4;

const OP: &str = "compress zfile block";

/// Consecutive blocks, before and after compression.
#[derive(Debug)]
pub(super) struct Batch {
    /// The blocks, all of full size but perhaps the last one of the file.
    pub(super) input: Vec<u8>,
    /// Room for the compressed blocks and their checksums; the front is in use.
    output: Vec<u8>,
    output_len: usize,
    /// Stored size of each block, checksum included.
    pub(super) stored_sizes: Vec<u32>,
    block_bytes: usize,
}

impl Batch {
    pub(super) fn new(block_bytes: usize) -> Self {
        let blocks = BATCH_BYTES.div_ceil(block_bytes);
        Self {
            input: Vec::with_capacity(BATCH_BYTES),
            output: vec![0; blocks * (block_bytes + ZFILE_BLOCK_GROWTH_BYTES_MAX as usize)],
            output_len: 0,
            stored_sizes: Vec::with_capacity(blocks),
            block_bytes,
        }
    }

    /// The compressed blocks, each followed by its checksum.
    pub(super) fn stored(&self) -> &[u8] {
        self.output.get(..self.output_len).unwrap_or_default()
    }

    /// Empties the batch so that its memory serves again.
    pub(super) fn clear(&mut self) {
        self.input.clear();
        self.output_len = 0;
        self.stored_sizes.clear();
    }

    fn compress(&mut self, encoder: &mut Encoder) -> Result<()> {
        let growth = ZFILE_BLOCK_GROWTH_BYTES_MAX as usize - CRC_BYTES;
        let mut free = self.output.as_mut_slice();
        for block in self.input.chunks(self.block_bytes) {
            let room = free
                .get_mut(..self.block_bytes + growth)
                .ok_or_else(|| no_room(block.len()))?;
            let compressed_len = encoder.encode(block, room)?;
            let stored_len = compressed_len + CRC_BYTES;
            let (stored, rest) = free
                .split_at_mut_checked(stored_len)
                .ok_or_else(|| no_room(block.len()))?;
            let (compressed, crc) = stored
                .split_last_chunk_mut::<CRC_BYTES>()
                .ok_or_else(|| no_room(block.len()))?;
            *crc = checksum::of_block(compressed).to_le_bytes();
            self.stored_sizes
                .push(u32::try_from(stored_len).map_err(|_| no_room(block.len()))?);
            self.output_len += stored_len;
            free = rest;
        }
        Ok(())
    }
}

fn no_room(block_len: usize) -> Error {
    let detail = format!("{block_len} bytes grew beyond their limit");
    Error::new(ErrorKind::Unsupported, OP, detail)
}

/// Where batches are compressed.
#[derive(Debug)]
pub(super) enum Compressor {
    /// On the thread that submits them.
    Inline(Encoder),
    /// On threads of their own.
    Pool(Pool),
}

impl Compressor {
    /// `threads` is at least 1.
    ///
    /// # Errors
    /// `Io` when a thread cannot be started.
    pub(super) fn new(algorithm: Algorithm, threads: usize) -> Result<Self> {
        match threads {
            0 | 1 => Ok(Self::Inline(Encoder::new(algorithm))),
            _ => Pool::new(algorithm, threads).map(Self::Pool),
        }
    }

    /// Takes `batch` and may return an earlier one, or this one, compressed.
    ///
    /// # Errors
    /// What went wrong with the batch that would have been returned.
    pub(super) fn submit(&mut self, mut batch: Batch) -> Result<Option<Batch>> {
        match self {
            Self::Inline(encoder) => {
                batch.compress(encoder)?;
                Ok(Some(batch))
            }
            Self::Pool(pool) => pool.submit(batch),
        }
    }

    /// The oldest batch under way, `None` when there is none.
    ///
    /// # Errors
    /// What went wrong with it.
    pub(super) fn next_done(&mut self) -> Result<Option<Batch>> {
        match self {
            Self::Inline(_) => Ok(None),
            Self::Pool(pool) => pool.next_done(),
        }
    }
}

/// Threads that compress.
#[derive(Debug)]
pub(super) struct Pool {
    workers: Vec<Worker>,
    /// Batches submitted and handed back since the start.
    submitted: usize,
    done: usize,
}

#[derive(Debug)]
struct Worker {
    /// `None` only while the pool is dropped.
    jobs: Option<SyncSender<Batch>>,
    done: Receiver<Result<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Pool {
    fn new(algorithm: Algorithm, threads: usize) -> Result<Self> {
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..threads {
            workers.push(Worker::start(algorithm)?);
        }
        Ok(Self {
            workers,
            submitted: 0,
            done: 0,
        })
    }

    fn submit(&mut self, batch: Batch) -> Result<Option<Batch>> {
        let under_way = self.submitted - self.done;
        let oldest = if under_way == self.workers.len() * BATCHES_PER_WORKER {
            self.next_done()?
        } else {
            None
        };
        let turn = self.submitted % self.workers.len();
        let sent = self
            .workers
            .get(turn)
            .and_then(|worker| worker.jobs.as_ref()?.send(batch).ok());
        sent.ok_or_else(thread_ended)?;
        self.submitted += 1;
        Ok(oldest)
    }

    fn next_done(&mut self) -> Result<Option<Batch>> {
        if self.done == self.submitted {
            return Ok(None);
        }
        let turn = self.done % self.workers.len();
        self.done += 1;
        let received = self
            .workers
            .get(turn)
            .and_then(|worker| worker.done.recv().ok());
        received.ok_or_else(thread_ended)?.map(Some)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Without jobs to come every worker ends, whatever it has still to hand back.
        for worker in &mut self.workers {
            worker.jobs = None;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                drop(thread.join());
            }
        }
    }
}

impl Worker {
    fn start(algorithm: Algorithm) -> Result<Self> {
        let (jobs, inbox) = sync_channel::<Batch>(BATCHES_PER_WORKER);
        // Never full: as many places as batches may be under way.
        let (outbox, done) = sync_channel(BATCHES_PER_WORKER);
        let thread = std::thread::Builder::new()
            .name("zfile-compress".to_owned())
            .spawn(move || {
                let mut encoder = Encoder::new(algorithm);
                for mut batch in inbox {
                    let result = batch.compress(&mut encoder).map(|()| batch);
                    if outbox.send(result).is_err() {
                        return;
                    }
                }
            })
            .map_err(|source| Error::io("start compression thread", source))?;
        Ok(Self {
            jobs: Some(jobs),
            done,
            thread: Some(thread),
        })
    }
}

fn thread_ended() -> Error {
    Error::new(ErrorKind::Io, OP, "a compression thread has ended")
}
