//! A range source that does not take no for an answer while a guest waits.
//!
//! cached blob -> **persistent source** -> registry
//!
//! A source gives up at once what cannot change by waiting, such as wrong credentials. That is right
//! while an image is opened: somebody reads the message. Under a running disk it would break the
//! guest's file system for a password that is mended a minute later, so there everything is asked
//! again until the disk's patience ends.
//!
//! Source: format reference 8.5 (the C++ daemon retries every failed read).

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Patience;
use crate::error::{ErrorKind, Result};
use crate::range_source::{RangeSource, Sink, Urgency};

const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Behaves like the source inside it, but for guests of a disk that runs.
#[derive(Debug)]
pub struct PersistentSource<S> {
    source: S,
    patience: Arc<Patience>,
}

impl<S: RangeSource> PersistentSource<S> {
    /// Asks `source` again while `patience` says that the disk runs.
    #[must_use]
    pub fn new(source: S, patience: Arc<Patience>) -> Self {
        Self { source, patience }
    }
}

impl<S: RangeSource> RangeSource for PersistentSource<S> {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn size(&self, deadline: Instant) -> Result<u64> {
        self.source.size(deadline)
    }

    fn fetch(
        &self,
        range: Range<u64>,
        urgency: Urgency,
        deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let mut start = range.start;
        let mut pause = PAUSE_FIRST;
        loop {
            let before = start;
            let mut is_refused = false;
            let fetched = self
                .source
                .fetch(start..range.end, urgency, deadline, &mut |bytes| {
                    let taken = sink(bytes);
                    is_refused = taken.is_err();
                    start += bytes.len() as u64;
                    taken
                });
            let Err(error) = fetched else { return Ok(()) };
            let is_remote = matches!(error.kind(), ErrorKind::Remote(_)) && !is_refused;
            let is_guest = urgency == Urgency::Guest;
            if start > before {
                pause = PAUSE_FIRST;
            }
            // Not all at once.
            let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            let is_time_left = Instant::now() + wait < deadline;
            if !is_remote || !is_guest || !is_time_left || !self.patience.pause(wait) {
                return Err(error);
            }
            log::warn!("{error}; a guest waits, so it is asked again");
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Remote};
    use std::sync::Mutex;

    /// Refuses the first requests, each after one byte.
    #[derive(Debug)]
    struct Refusing(Mutex<u32>);

    impl RangeSource for Refusing {
        fn name(&self) -> &'static str {
            "sha256:x"
        }

        fn size(&self, _deadline: Instant) -> Result<u64> {
            Ok(8)
        }

        fn fetch(
            &self,
            range: Range<u64>,
            _urgency: Urgency,
            _deadline: Instant,
            sink: &mut Sink<'_>,
        ) -> Result<()> {
            let mut left = self.0.lock().unwrap();
            let bytes: Vec<u8> = (0_u8..8).collect();
            if *left == 0 {
                return sink(&bytes[usize::try_from(range.start).unwrap()..]);
            }
            *left -= 1;
            let first = usize::try_from(range.start).unwrap();
            sink(&bytes[first..=first])?;
            let kind = ErrorKind::Remote(Remote::Unauthorized);
            Err(Error::new(kind, "fetch blob", "401"))
        }
    }

    fn fetch(patience: Patience, urgency: Urgency) -> (Result<()>, Vec<u8>) {
        let deadline = patience.deadline();
        let source = PersistentSource::new(Refusing(Mutex::new(2)), Arc::new(patience));
        let mut got = Vec::new();
        let fetched = source.fetch(0..8, urgency, deadline, &mut |bytes| {
            got.extend_from_slice(bytes);
            Ok(())
        });
        (fetched, got)
    }

    #[test]
    fn a_running_guest_outlives_refusals_and_no_byte_comes_twice() {
        let patience = Patience::new(Duration::ZERO);
        patience.run(Duration::from_secs(60));
        let (fetched, got) = fetch(patience, Urgency::Guest);
        fetched.unwrap();
        assert_eq!(got, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn whoever_opens_or_prefetches_hears_of_a_refusal_at_once() {
        let opening = Patience::new(Duration::from_secs(60));
        assert!(fetch(opening, Urgency::Guest).0.is_err());
        let running = Patience::new(Duration::ZERO);
        running.run(Duration::from_secs(60));
        assert!(fetch(running, Urgency::Background).0.is_err());
    }

    #[test]
    fn a_refusal_is_told_when_the_patience_ends() {
        let patience = Patience::new(Duration::ZERO);
        patience.run(Duration::from_millis(100));
        assert!(fetch(patience, Urgency::Guest).0.is_err());
    }
}
