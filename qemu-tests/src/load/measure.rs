//! A fixed number of reads in flight for a fixed time: rate, latency, processor time.
//!
//! **measure** -> pattern (which read) -> disk (submit, wait)
//!
//! Invariants: only reads that finish inside the window count; the window starts after
//! [`RAMP`], when both sides have settled; latency is from submission to the moment the client
//! sees the completion, its own wake-up included.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::cpu::{self, HostTime, Process};
use super::disk::{Completions, Disk, Finished, Read};
use super::pattern::{Mode, Pattern};
use super::reference::Reference;

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
    /// Bytes a read.
    pub read_bytes: usize,
    /// Reads in flight.
    pub depth: usize,
    /// Length of the window.
    pub window: Duration,
    /// Names the random sequence.
    pub seed: u64,
    /// The server, when its processor time is wanted.
    pub server: Option<u32>,
    /// Processes whose time is not the neighbours'.
    pub ignored: Vec<u32>,
    /// A raw image to compare every read with.
    pub compare: Option<PathBuf>,
}

/// What was seen in the window.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Report {
    /// Reads that finished.
    pub requests: u64,
    /// Reads among them that the server failed.
    pub errors: u64,
    /// Length of the window.
    pub seconds: f64,
    /// Reads a second.
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
    /// The same a read, microseconds.
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
/// The connection fails or stalls, or a compared read differs from the raw image.
pub fn run(plan: &Plan) -> Result<Report> {
    ensure!(!plan.window.is_zero(), "a window has a length");
    let mut disk = Disk::connect(&plan.socket, plan.completions, plan.depth, plan.read_bytes)?;
    let capacity = disk.capacity()?;
    let pattern = Pattern::new(plan.mode, plan.read_bytes, capacity, plan.seed)?;
    let reference = plan.compare.as_deref().map(Reference::open).transpose()?;
    if let Some(reference) = &reference {
        reference.check_capacity(capacity)?;
    }
    let mut pump = Pump {
        pattern,
        reference,
        requests: vec![None; plan.depth],
        finished: Vec::with_capacity(plan.depth),
        tally: Tally::new()?,
    };
    for slot in 0..plan.depth {
        pump.submit(&mut disk, slot, Instant::now())?;
    }
    pump.turn_until(&mut disk, Instant::now() + RAMP)?;

    pump.tally = Tally::new()?;
    let before = CpuUse::now(plan)?;
    let start = Instant::now();
    pump.turn_until(&mut disk, start + plan.window)?;
    let seconds = start.elapsed().as_secs_f64();
    let after = CpuUse::now(plan)?;

    let report = pump.tally.report(plan, seconds, before, after);
    pump.drain(&mut disk)?;
    Ok(report)
}

/// Keeps every slot in flight.
struct Pump {
    pattern: Pattern,
    reference: Option<Reference>,
    /// By slot: what is in flight since when.
    requests: Vec<Option<(Read, Instant)>>,
    finished: Vec<Finished>,
    tally: Tally,
}

impl Pump {
    fn submit(&mut self, disk: &mut Disk, slot: usize, now: Instant) -> Result<()> {
        let read = self.pattern.next_read();
        if let Some(reference) = &self.reference {
            reference.prepare(disk, slot)?;
        }
        disk.submit(slot, read)?;
        *self.requests.get_mut(slot).context("no such slot")? = Some((read, now));
        Ok(())
    }

    fn turn_until(&mut self, disk: &mut Disk, deadline: Instant) -> Result<()> {
        loop {
            let now = self.take_finished(disk)?;
            if now >= deadline {
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
        let (read, since) = request.context("completion without a request")?;
        self.tally.add(now.duration_since(since), done.status == 0);
        match &mut self.reference {
            Some(reference) if done.status == 0 => reference.compare(disk, done.slot, read),
            _ => Ok(()),
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
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            latency_nanos: Histogram::new_with_max(MAX_LATENCY_NANOS, 3)?,
            errors: 0,
        })
    }

    fn add(&mut self, latency: Duration, good: bool) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency_nanos.saturating_record(nanos);
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
            seconds,
            iops,
            mb_per_s: iops * plan.read_bytes as f64 / 1e6,
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
