//! Fetches what will be read, on threads of its own.
//!
//! prefetch -> plan -> **replay** -> cache
//!
//! Invariant: guests come first: all requests are background ones, and no thread asks for
//! anything after the disk was closed. One that is waiting for its origin then ends when that
//! answers or the disk's patience is over; nobody waits for it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::closing::Closing;
use super::plan::{Plan, Stored};
use crate::cache::CachedBlob;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use crate::range_source::Urgency;

/// More requests at once than any link needs.
const CONCURRENCY_MAX: usize = 256;

/// So many failed requests, and the rest is left to the guest's own reads.
const FAILURES_MAX: usize = 8;

/// How the requests of one disk are made.
#[derive(Debug, Clone)]
pub(super) struct Fetching {
    /// The remote layers by number, 0 = bottom.
    pub(super) cached: HashMap<usize, Arc<CachedBlob>>,
    /// Requests at once.
    pub(super) concurrency: usize,
    pub(super) closing: Arc<Closing>,
    pub(super) metrics: Arc<Metrics>,
}

impl Fetching {
    /// Is this layer fetched from elsewhere?
    pub(super) fn is_remote(&self, layer: usize) -> bool {
        self.cached.contains_key(&layer)
    }

    /// Makes all requests of `plan`; blocks until the last one has ended. `name` is what the log
    /// calls the plan.
    pub(super) fn run(&self, name: &str, plan: Plan) {
        let (runs, bytes) = (plan.runs_left(), plan.bytes());
        log::info!("prefetch of {name}: {runs} ranges, {bytes} bytes");
        let begun = Instant::now();
        let done = drain(plan, self.concurrency, |stored| {
            if self.closing.is_closed() {
                return None;
            }
            Some(self.fetch(stored))
        });
        let seconds = begun.elapsed().as_secs_f64();
        let asked = done.bytes.into_inner();
        match done.first_failure.into_inner() {
            _ if self.closing.is_closed() => {
                log::info!("prefetch of {name}: ended with its disk after {seconds:.1} s");
            }
            Ok(None) => log::info!("prefetch of {name}: done, {asked} bytes in {seconds:.1} s"),
            Ok(Some(error)) => {
                let failures = done.failures.into_inner();
                log::warn!(
                    "prefetch of {name}: {failures} requests failed, {asked} bytes in {seconds:.1} s; \
                     the first: {error}"
                );
            }
            Err(_) => log::warn!("prefetch of {name}: ended by a panic"),
        }
    }

    fn fetch(&self, stored: &Stored) -> Result<()> {
        let Some(blob) = self.cached.get(&stored.layer) else {
            return Ok(());
        };
        let bytes = stored.range.end - stored.range.start;
        self.metrics
            .prefetch_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        blob.prefetch(stored.range.clone(), Urgency::Background)
    }
}

/// How it went.
#[derive(Debug, Default)]
struct Done {
    bytes: AtomicU64,
    failures: AtomicUsize,
    first_failure: Mutex<Option<Error>>,
}

/// Hands the requests of `plan` to `fetch` on so many threads, until one says `None` or too many
/// fail.
fn drain(
    plan: Plan,
    concurrency: usize,
    fetch: impl Fn(&Stored) -> Option<Result<()>> + Sync,
) -> Done {
    let threads = concurrency.clamp(1, CONCURRENCY_MAX);
    let plan = Mutex::new(plan);
    let done = Done::default();
    let next = || plan.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(stored) = next() {
            match fetch(&stored) {
                None => return,
                Some(Ok(())) => {
                    let bytes = stored.range.end - stored.range.start;
                    done.bytes.fetch_add(bytes, Ordering::Relaxed);
                }
                Some(Err(error)) => {
                    let first = &mut *done
                        .first_failure
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    first.get_or_insert(error);
                    if done.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES_MAX {
                        *plan.lock().unwrap_or_else(PoisonError::into_inner) = Plan::default();
                    }
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            let left = plan.lock().unwrap_or_else(PoisonError::into_inner);
            if left.runs_left() == 0 {
                break;
            }
            drop(left);
            let thread = std::thread::Builder::new().name("prefetch".to_owned());
            // Without this thread the others do its part.
            drop(thread.spawn_scoped(scope, work));
        }
        work();
    });
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use std::sync::Barrier;

    fn plan(ranges: u64) -> Plan {
        Plan::new((0..ranges).map(|n| Stored {
            layer: 0,
            range: n << 20..(n << 20) + 4096,
        }))
    }

    #[test]
    fn so_many_requests_as_asked_for_run_at_once_in_the_order_of_the_plan() {
        let together = Barrier::new(4);
        let starts = Mutex::new(Vec::new());
        let done = drain(plan(12), 4, |stored| {
            starts.lock().unwrap().push(stored.range.start >> 20);
            together.wait();
            Some(Ok(()))
        });
        assert_eq!(done.bytes.into_inner(), 12 * 4096);
        let starts = starts.into_inner().unwrap();
        for (round, four) in starts.chunks(4).enumerate() {
            let mut four = four.to_vec();
            four.sort_unstable();
            let first = round as u64 * 4;
            assert_eq!(four, (first..first + 4).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_closed_disk_asks_for_nothing_more() {
        let count = AtomicUsize::new(0);
        let done = drain(plan(100), 1, |_| {
            (count.fetch_add(1, Ordering::Relaxed) < 3).then_some(Ok(()))
        });
        assert_eq!((done.bytes.into_inner(), count.into_inner()), (3 * 4096, 4));
    }

    #[test]
    fn a_few_failures_are_passed_over_many_end_it() {
        let fail = || Error::new(ErrorKind::Io, "fetch", "no");
        let done = drain(plan(100), 1, |stored| {
            Some(match stored.range.start >> 20 {
                5 => Err(fail()),
                _ => Ok(()),
            })
        });
        assert_eq!(done.failures.into_inner(), 1);
        assert_eq!(done.bytes.into_inner(), 99 * 4096);
        let done = drain(plan(100), 1, |_| Some(Err(fail())));
        assert_eq!(done.failures.into_inner(), FAILURES_MAX);
    }
}
