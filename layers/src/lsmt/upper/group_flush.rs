//! Flushes that are asked for at the same time are one flush.
//!
//! image -> lsmt upper -> **group flush** -> file
//!
//! Invariants
//! - a call returns `Ok` only after a flush that began after the call has succeeded.
//! - once the kernel could not write something back nobody can tell what is on the device: every
//!   later flush fails, until the layer is opened again.
//!
//! Source: fsync(2), "Error handling".

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};

/// How a flush went wrong.
#[derive(Debug)]
pub(super) enum FlushError {
    /// Nothing is lost: the next flush may succeed.
    Again(Error),
    /// What was written may be lost.
    Lost(Error),
}

/// One flush at a time.
#[derive(Debug, Default)]
pub(super) struct GroupFlush {
    state: Mutex<State>,
    finished: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: bool,
    /// Flushes begun.
    begun: u64,
    /// The last flush that succeeded.
    succeeded: u64,
    lost: Option<String>,
    /// Threads that wait for a flush to end.
    waiting: usize,
}

impl GroupFlush {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `flush`, or waits for somebody else's that begins after this call.
    pub(super) fn run(
        &self,
        flush: impl FnOnce() -> std::result::Result<(), FlushError>,
    ) -> Result<()> {
        let mut state = self.lock();
        let wanted = state.begun + 1;
        state.waiting += 1;
        while state.running && state.succeeded < wanted {
            state = self
                .finished
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        if let Some(lost) = &state.lost {
            let detail = format!(
                "an earlier flush failed, what was written before it may be lost; the disk flushes again after \
                 a restart of its daemon: {lost}"
            );
            return Err(Error::new(ErrorKind::Io, "flush layer", detail));
        }
        if state.succeeded >= wanted {
            return Ok(());
        }
        state.running = true;
        state.begun += 1;
        let number = state.begun;
        drop(state);
        let result = flush();
        let mut state = self.lock();
        state.running = false;
        self.finished.notify_all();
        match result {
            Ok(()) => {
                state.succeeded = number;
                Ok(())
            }
            Err(FlushError::Again(error)) => Err(error),
            Err(FlushError::Lost(error)) => {
                state.lost = Some(error.to_string());
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;

    fn lost() -> FlushError {
        FlushError::Lost(Error::new(
            ErrorKind::Io,
            "flush file",
            "the device is gone",
        ))
    }

    #[test]
    fn a_lost_write_fails_every_later_flush() {
        let group = GroupFlush::default();
        group.run(|| Ok(())).unwrap();
        group.run(|| Err(lost())).unwrap_err();
        let error = group.run(|| Ok(())).unwrap_err();
        assert!(error.to_string().contains("the device is gone"), "{error}");
    }

    #[test]
    fn a_flush_that_lost_nothing_may_be_repeated() {
        let group = GroupFlush::default();
        let full = Error::new(ErrorKind::NoSpace, "write file", "");
        group.run(|| Err(FlushError::Again(full))).unwrap_err();
        group.run(|| Ok(())).unwrap();
    }

    #[test]
    fn calls_during_a_flush_share_the_next_one() {
        let group = GroupFlush::default();
        let flushes = AtomicUsize::new(0);
        let ((began, begins), (go, gone)) = (channel(), channel());
        std::thread::scope(|scope| {
            let (group, flushes) = (&group, &flushes);
            scope.spawn(move || {
                let first = group.run(|| {
                    flushes.fetch_add(1, Ordering::SeqCst);
                    began.send(()).unwrap();
                    gone.recv().unwrap();
                    Ok(())
                });
                first.unwrap();
            });
            begins.recv().unwrap();
            let waiters: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(move || {
                        group.run(|| {
                            // Nobody is left to wait for this one: all asked before it began.
                            flushes.fetch_add(1, Ordering::SeqCst);
                            Ok(())
                        })
                    })
                })
                .collect();
            while group.lock().waiting < 8 {
                std::thread::yield_now();
            }
            go.send(()).unwrap();
            for waiter in waiters {
                waiter.join().unwrap().unwrap();
            }
        });
        assert_eq!(flushes.load(Ordering::SeqCst), 2);
    }
}
