//! Reads an image as fast as it goes, in this process: what the engine alone can do.
//!
//! image -> **load**
//!
//! Each read is tried without waiting first, as a ring thread does, and repeated blocking when it
//! is pending. Only places that hold data are read: holes would flatter the figure.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::limits::SECTOR_BYTES;
use crate::read_at::{Progress, Wait};

const OP: &str = "run load";

const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// Where the next read goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMode {
    /// Anywhere that holds data.
    Random,
    /// After the last one.
    Sequential,
}

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Bytes of one read, a multiple of 512.
    pub size_bytes: usize,
    /// Order of the reads.
    pub mode: LoadMode,
    /// Threads, each reading on its own.
    pub threads: usize,
    /// How long.
    pub duration: Duration,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct LoadReport {
    /// Reads done by all threads.
    pub reads: u64,
    /// Reads that had to wait for a disk.
    pub pending: u64,
    /// Wall time of the slowest thread.
    pub elapsed: Duration,
    /// How long single reads took, in nanoseconds.
    pub latencies: Histogram<u64>,
}

impl LoadReport {
    fn new() -> Result<Self> {
        // 1 ns to a minute, three digits; longer ones count as a minute.
        let latencies = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)
            .map_err(|error| Error::new(ErrorKind::Config, OP, error.to_string()))?;
        Ok(Self {
            reads: 0,
            pending: 0,
            elapsed: Duration::ZERO,
            latencies,
        })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.reads += other.reads;
        self.pending += other.pending;
        self.elapsed = self.elapsed.max(other.elapsed);
        let added = self.latencies.add(&other.latencies);
        added.map_err(|error| Error::new(ErrorKind::Config, OP, error.to_string()))
    }
}

/// Runs the load. Blocks for the whole duration.
///
/// # Errors
/// `Config` for a size that is no multiple of 512 or an image without data; the first failed read.
pub fn run_load(image: &Image, options: LoadOptions) -> Result<LoadReport> {
    let places = places_with_data(image, options.size_bytes)?;
    let ready = Barrier::new(options.threads.max(1));
    let results: Vec<Result<LoadReport>> = std::thread::scope(|scope| {
        let run = |thread| {
            let (places, ready) = (&places, &ready);
            scope.spawn(move || one_thread(image, options, places, thread, ready))
        };
        let threads: Vec<_> = (0..options.threads.max(1)).map(run).collect();
        let panicked = || Err(Error::new(ErrorKind::Io, OP, "a thread panicked"));
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| panicked()))
            .collect()
    });
    let mut total = LoadReport::new()?;
    for result in results {
        total.add(&result?)?;
    }
    Ok(total)
}

/// Every place, as a multiple of the read size, where some data lies.
fn places_with_data(image: &Image, size_bytes: usize) -> Result<Vec<u32>> {
    let size = size_bytes as u64;
    if size == 0 || !size.is_multiple_of(SECTOR_BYTES) {
        let detail = format!("read size {size_bytes} is no multiple of {SECTOR_BYTES}");
        return Err(Error::new(ErrorKind::Config, OP, detail));
    }
    let whole = image.virtual_size() / size;
    let mut places: Vec<u32> = Vec::new();
    let Some(stack) = image.stack() else {
        let detail = "a load needs an image that is opened for reading";
        return Err(Error::new(ErrorKind::Config, OP, detail));
    };
    for mapping in stack
        .index()
        .mappings()
        .iter()
        .filter(|mapping| !mapping.is_zeroed())
    {
        let first = mapping.offset() * SECTOR_BYTES / size;
        let end = (mapping.end() * SECTOR_BYTES).div_ceil(size).min(whole);
        let after_last = places.last().map_or(0, |last| u64::from(*last) + 1);
        places.extend((first.max(after_last)..end).map_while(|place| u32::try_from(place).ok()));
    }
    if places.is_empty() {
        let detail = format!("the image holds no data for reads of {size_bytes} bytes");
        return Err(Error::new(ErrorKind::Config, OP, detail));
    }
    Ok(places)
}

fn one_thread(
    image: &Image,
    options: LoadOptions,
    places: &[u32],
    thread: usize,
    ready: &Barrier,
) -> Result<LoadReport> {
    let mut report = LoadReport::new()?;
    let mut buf = vec![0; options.size_bytes];
    let mut random = Random::new(thread as u64);
    // Sequential threads start at different places.
    let mut next = places.len() * thread / options.threads.max(1);
    // All threads read at the same time, or the rates would not add up.
    ready.wait();
    let begin = Instant::now();
    let mut before = begin;
    while report.elapsed < options.duration {
        let at = match options.mode {
            LoadMode::Random => random.below(places.len()),
            LoadMode::Sequential => {
                next = if next + 1 < places.len() { next + 1 } else { 0 };
                next
            }
        };
        let offset = places
            .get(at)
            .map_or(0, |place| u64::from(*place) * options.size_bytes as u64);
        if image.read_at(offset, Dest::from(&mut buf[..]), Wait::Never)? == Progress::Pending {
            report.pending += 1;
            image.read_exact_at(offset, &mut buf)?;
        }
        let now = Instant::now();
        let nanos = u64::try_from((now - before).as_nanos()).unwrap_or(LATENCY_NS_MAX);
        report.latencies.saturating_record(nanos);
        report.reads += 1;
        report.elapsed = now - begin;
        before = now;
    }
    Ok(report)
}

/// xorshift64*: fast, and the same sequence in every run.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let wide = u128::from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)) * bound as u128;
        usize::try_from(wide >> 64).unwrap_or(0)
    }
}
