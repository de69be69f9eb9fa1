//! A fixed number of requests in flight for a fixed time: rate, latency, processor time.
//!
//! **measure** -> pattern (which part of the disk) -> reference, writes (its bytes) -> disk (submit, wait)
//!
//! Invariants: only reads or writes that finish inside the window count; the window starts after
//! [`RAMP`], when both sides have settled; latency is from submission to the moment the client
//! sees the completion, its own wake-up included.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::cpu::{self, HostTime, Process};
use super::disk::{Completions, Disk, Finished, Setup, Span};
use super::pattern::{Mode, Pattern};
use super::reference::Reference;
use super::writes::Writes;

/// Load before the window.
pub const RAMP: Duration = Duration::from_millis(250);

/// Latencies above this are recorded as this.
const MAX_LATENCY_NANOS: u64 = 60_000_000_000;

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the server listens.
    pub socket: PathBuf,
    /// How the client waits.
    pub completions: Completions,
    /// The order of the offsets.
    pub mode: Mode,
    /// Bytes a request.
    pub request_bytes: usize,
    /// Requests in flight.
    pub depth: usize,
    /// Keep to the first so many bytes of the disk.
    pub span_bytes: Option<u64>,
    /// Length of the window.
    pub window: Duration,
    /// End the window after so many requests; there is no load before it then.
    pub requests: Option<u64>,
    /// Names the random sequence.
    pub seed: u64,
    /// The server, when its processor time is wanted.
    pub server: Option<u32>,
    /// Processes whose time is not the neighbours'.
    pub ignored: Vec<u32>,
    /// Read or write.
    pub action: Action,
}

/// What the requests do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Read, and compare every read with a raw image if there is one.
    Read {
        /// The raw image.
        compare: Option<PathBuf>,
    },
    /// Write.
    Write {
        /// A flush after each so many writes.
        flush_every: Option<u64>,
        /// Read every place afterwards and compare it with what was written last.
        read_back: bool,
    },
}

/// What was seen in the window.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Report {
    /// Reads or writes that finished.
    pub requests: u64,
    /// Those among them that the server failed, and failed flushes.
    pub errors: u64,
    /// Flushes that finished.
    pub flushes: u64,
    /// Blocks that were read back and hold what was written last.
    pub read_back: Option<u64>,
    /// Length of the window.
    pub seconds: f64,
    /// Reads or writes a second.
    pub iops: f64,
    /// Millions of bytes a second.
    pub mb_per_s: f64,
    /// Median latency, microseconds.
    pub p50_us: f64,
    /// 99th percentile, microseconds.
    pub p99_us: f64,
    /// 99.9th percentile, microseconds.
    pub p999_us: f64,
    /// Processor time of the server in the window, seconds.
    pub server_cpu_s: Option<f64>,
    /// The same a request, microseconds.
    pub server_cpu_us_per_request: Option<f64>,
    /// Share of one processor that the server used.
    pub server_busy: Option<f64>,
    /// Share of one processor that this client used: near 1 with interrupts means that the
    /// client is the limit.
    pub client_busy: f64,
    /// Processors that anything but client and server kept busy: above a few hundredths the
    /// figures say more about the neighbours.
    pub others_busy: Option<f64>,
    /// Processors that the hypervisor kept from this host.
    pub stolen: f64,
}

/// Runs `plan` on the calling thread.
///
/// # Errors
/// The connection fails or stalls; a compared read differs from the raw image or from what was
/// written.
pub fn run(plan: &Plan) -> Result<Report> {
    ensure!(!plan.window.is_zero(), "a window has a length");
    let setup = Setup {
        completions: plan.completions,
        writable: matches!(plan.action, Action::Write { .. }),
        slots: plan.depth,
        slot_bytes: plan.request_bytes,
    };
    let mut disk = Disk::connect(&plan.socket, setup)?;
    let capacity = disk.capacity()?;
    let span = plan.span_bytes.unwrap_or(capacity).min(capacity);
    let mut pump = Pump {
        pattern: Pattern::new(plan.mode, plan.request_bytes, span, plan.seed)?,
        bytes: Bytes::new(plan, &disk, span)?,
        requests: vec![None; plan.depth],
        finished: Vec::with_capacity(plan.depth),
        tally: Tally::new()?,
    };
    for slot in 0..plan.depth {
        pump.submit(&mut disk, slot, Instant::now())?;
    }
    if plan.requests.is_none() {
        pump.turn_until(&mut disk, Instant::now() + RAMP, u64::MAX)?;
    }

    pump.tally = Tally::new()?;
    let before = CpuUse::now(plan)?;
    let start = Instant::now();
    let requests = plan.requests.unwrap_or(u64::MAX);
    pump.turn_until(&mut disk, start + plan.window, requests)?;
    let seconds = start.elapsed().as_secs_f64();
    let after = CpuUse::now(plan)?;

    let mut report = pump.tally.report(plan, seconds, before, after);
    pump.drain(&mut disk)?;
    if let (Bytes::Written(writes), true) = (&pump.bytes, plan.action.reads_back()) {
        report.read_back = Some(writes.read_back(&mut disk)?);
    }
    Ok(report)
}

impl Action {
    fn reads_back(&self) -> bool {
        matches!(
            self,
            Self::Write {
                read_back: true,
                ..
            }
        )
    }
}

/// Where the bytes come from, or what they are compared with.
enum Bytes {
    Read(Option<Reference>),
    Written(Writes),
}

impl Bytes {
    fn new(plan: &Plan, disk: &Disk, span: u64) -> Result<Self> {
        match &plan.action {
            Action::Read { compare } => {
                let reference = compare.as_deref().map(Reference::open).transpose()?;
                if let Some(reference) = &reference {
                    reference.check_capacity(disk.capacity()?)?;
                }
                Ok(Self::Read(reference))
            }
            Action::Write { flush_every, .. } => {
                let writes = Writes::new(plan.request_bytes, span, plan.depth, *flush_every)?;
                writes.fill_slots(disk)?;
                Ok(Self::Written(writes))
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Request {
    Data(Span),
    Flush,
}

/// Keeps every slot in flight.
struct Pump {
    pattern: Pattern,
    bytes: Bytes,
    /// By slot: what is in flight since when.
    requests: Vec<Option<(Request, Instant)>>,
    finished: Vec<Finished>,
    tally: Tally,
}

impl Pump {
    fn submit(&mut self, disk: &mut Disk, slot: usize, now: Instant) -> Result<()> {
        let request = match &mut self.bytes {
            Bytes::Read(reference) => {
                let span = self.pattern.next_span();
                if let Some(reference) = reference {
                    reference.prepare(disk, slot)?;
                }
                disk.submit_read(slot, span)?;
                Request::Data(span)
            }
            Bytes::Written(writes) => {
                if writes.flush_is_due() {
                    disk.submit_flush(slot)?;
                    Request::Flush
                } else {
                    let span = writes.prepare(disk, slot, &mut self.pattern)?;
                    disk.submit_write(slot, span)?;
                    Request::Data(span)
                }
            }
        };
        *self.requests.get_mut(slot).context("no such slot")? = Some((request, now));
        Ok(())
    }

    fn turn_until(&mut self, disk: &mut Disk, deadline: Instant, requests: u64) -> Result<()> {
        loop {
            let now = self.take_finished(disk)?;
            if now >= deadline || self.tally.latency_nanos.len() >= requests {
                return Ok(());
            }
        }
    }

    /// One wait; every slot that comes back is sent off again.
    fn take_finished(&mut self, disk: &mut Disk) -> Result<Instant> {
        disk.wait(&mut self.finished)?;
        let now = Instant::now();
        let finished = std::mem::take(&mut self.finished);
        for done in &finished {
            self.account(disk, *done, now)?;
            self.submit(disk, done.slot, now)?;
        }
        self.finished = finished;
        self.finished.clear();
        Ok(now)
    }

    fn account(&mut self, disk: &Disk, done: Finished, now: Instant) -> Result<()> {
        let request = self.requests.get_mut(done.slot).and_then(Option::take);
        let (request, since) = request.context("completion without a request")?;
        let good = done.status == 0;
        let Request::Data(span) = request else {
            self.tally.add_flush(good);
            return Ok(());
        };
        self.tally.add(now.duration_since(since), good);
        match &mut self.bytes {
            Bytes::Read(Some(reference)) if good => reference.compare(disk, done.slot, span),
            Bytes::Read(_) => Ok(()),
            Bytes::Written(writes) => writes.finished(span, good),
        }
    }

    /// Lets everything in flight finish, so that the server sees an orderly end.
    fn drain(&mut self, disk: &mut Disk) -> Result<()> {
        while self.requests.iter().any(Option::is_some) {
            disk.wait(&mut self.finished)?;
            let now = Instant::now();
            for done in std::mem::take(&mut self.finished) {
                self.account(disk, done, now)?;
            }
        }
        Ok(())
    }
}

/// Counts of one window.
struct Tally {
    latency_nanos: Histogram<u64>,
    errors: u64,
    flushes: u64,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            latency_nanos: Histogram::new_with_max(MAX_LATENCY_NANOS, 3)?,
            errors: 0,
            flushes: 0,
        })
    }

    fn add(&mut self, latency: Duration, good: bool) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency_nanos.saturating_record(nanos);
        self.errors += u64::from(!good);
    }

    fn add_flush(&mut self, good: bool) {
        self.flushes += 1;
        self.errors += u64::from(!good);
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "counts stay far below 2^53 in a window"
    )]
    fn report(&self, plan: &Plan, seconds: f64, before: CpuUse, after: CpuUse) -> Report {
        let requests = self.latency_nanos.len();
        let micros = |quantile| self.latency_nanos.value_at_quantile(quantile) as f64 / 1e3;
        let iops = requests as f64 / seconds;
        let server = after.server.zip(before.server).map(|(to, from)| to - from);
        let client = after.client - before.client;
        let ignored = after.ignored - before.ignored;
        let host_busy = after.host.busy - before.host.busy;
        Report {
            requests,
            errors: self.errors,
            flushes: self.flushes,
            read_back: None,
            seconds,
            iops,
            mb_per_s: iops * plan.request_bytes as f64 / 1e6,
            p50_us: micros(0.5),
            p99_us: micros(0.99),
            p999_us: micros(0.999),
            server_cpu_s: server,
            server_cpu_us_per_request: server.map(|used| used * 1e6 / requests as f64),
            server_busy: server.map(|used| used / seconds),
            client_busy: client / seconds,
            others_busy: server.map(|used| (host_busy - client - used - ignored) / seconds),
            stolen: (after.host.stolen - before.host.stolen) / seconds,
        }
    }
}

/// Processor time so far, seconds.
#[derive(Debug, Clone, Copy)]
struct CpuUse {
    client: f64,
    server: Option<f64>,
    ignored: f64,
    host: HostTime,
}

impl CpuUse {
    fn now(plan: &Plan) -> Result<Self> {
        let used = |id: u32| cpu::seconds_used(Process::Id(id));
        let ignored: Result<Vec<f64>> = plan.ignored.iter().map(|id| used(*id)).collect();
        Ok(Self {
            client: cpu::seconds_used(Process::Own)?,
            server: plan.server.map(used).transpose()?,
            ignored: ignored?.iter().sum(),
            host: cpu::host_time()?,
        })
    }
}
