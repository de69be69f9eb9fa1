//! Answers those who ask how it goes: Prometheus, and `obd why`; and those who ask for snapshots.
//!
//! metrics -> **exporter** -> HTTP
//!
//! One thread serves every listener of the process, with a runtime of its own: what hangs elsewhere does
//! not hang it, and nobody who connects can hang anything else.
//!
//! Source: format reference 9.2; docs/metrics.md.

mod address;
mod disk_story;
mod server;
mod snapshots;

pub use address::{Address, Keys};
pub use disk_story::DiskStory;
pub use snapshots::{Disks, Snapshots};

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use self::server::{Acceptor, Limits};
use crate::error::{Error, Result};
use crate::metrics::{DiskMetrics, Metrics, Rates};

/// The time of a disk's start that is worth a line in the log when it is over.
const START_TIME: Duration = Duration::from_secs(60);

/// The path at which a disk's control socket tells its story.
pub const WHY_PATH: &str = "/why";

/// Appended to the path of a disk's socket, it is that of its control socket.
pub const CONTROL_SUFFIX: &str = ".control";

/// A socket that somebody listens on.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

impl Listener {
    /// Where it listens, for messages; with port 0 nobody else would know.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => format!("http://{address}"),
                Err(error) => error.to_string(),
            },
            Self::Unix(listener) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                format!(
                    "socket {}",
                    path.unwrap_or(Path::new("without a name")).display()
                )
            }
        }
    }
}

/// What is told there.
#[derive(Debug)]
pub enum Site {
    /// The metrics of the process, at paths that begin like this.
    Metrics {
        /// Such as `/metrics`.
        uri_prefix: String,
    },
    /// The story of one disk, at [`WHY_PATH`], and the metrics of the process at `/metrics`.
    Disk(Arc<DiskMetrics>),
    /// Not told, but done: snapshots of disks.
    Snapshots(Snapshots),
}

/// The thread that answers; ends when dropped.
#[derive(Debug)]
pub struct Exporter {
    /// Ends the thread when dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The sites' common knowledge.
#[derive(Debug)]
struct Shared {
    metrics: Arc<Metrics>,
    /// Set when samples are taken.
    rates: Option<Mutex<Rates>>,
    limits: Limits,
}

impl Exporter {
    /// Starts to answer at `listeners`.
    ///
    /// # Errors
    /// `Io` when the process has no more threads or files.
    pub fn start(metrics: &Arc<Metrics>, listeners: Vec<(Listener, Site)>) -> Result<Self> {
        Self::start_with(metrics, listeners, Limits::default())
    }

    fn start_with(
        metrics: &Arc<Metrics>,
        listeners: Vec<(Listener, Site)>,
        limits: Limits,
    ) -> Result<Self> {
        let fail = |error| Error::io("start the exporter", error);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(fail)?;
        let has_metrics = listeners
            .iter()
            .any(|(_, site)| matches!(site, Site::Metrics { .. }));
        let shared = Arc::new(Shared {
            metrics: Arc::clone(metrics),
            rates: has_metrics.then(Mutex::default),
            limits,
        });
        start_tasks(&runtime, listeners, &shared).map_err(fail)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("exporter".to_owned())
            .spawn(move || drop(runtime.block_on(stopped)))
            .map_err(fail)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.stop.take();
        if self.thread.take().is_some_and(|it| it.join().is_err()) {
            log::error!("the exporter's thread has panicked");
        }
    }
}

fn start_tasks(
    runtime: &Runtime,
    listeners: Vec<(Listener, Site)>,
    shared: &Arc<Shared>,
) -> std::io::Result<()> {
    let _entered = runtime.enter();
    if shared.rates.is_some() {
        tokio::spawn(take_samples(Arc::clone(shared)));
    }
    for (listener, site) in listeners {
        if let Site::Disk(disk) = &site {
            tokio::spawn(tell_of_start(Arc::clone(disk)));
        }
        let acceptor = Acceptor::new(listener)?;
        tokio::spawn(server::serve(acceptor, Arc::new(site), Arc::clone(shared)));
    }
    Ok(())
}

/// Keeps the rates of the last second.
async fn take_samples(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(rates) = &shared.rates
            && let Ok(mut rates) = rates.lock()
        {
            rates.sample(&shared.metrics);
        }
    }
}

/// Logs how the start of a disk went, once it is over.
async fn tell_of_start(disk: Arc<DiskMetrics>) {
    let journal = Arc::clone(disk.journal());
    if journal.remote_layers() == 0 {
        return;
    }
    loop {
        let since = journal.since_first_read().unwrap_or_default();
        match START_TIME.checked_sub(since) {
            None | Some(Duration::ZERO) => break,
            Some(left) => tokio::time::sleep(left).await,
        }
    }
    if let Some(summary) = journal.summary() {
        log::info!("{}: start is over: {summary}", disk.name());
    }
}

#[cfg(test)]
mod tests;
