//! A range source whose fetches are timed.
//!
//! cache, download -> **timed source** -> registry

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::Metrics;
use crate::error::Result;
use crate::range_source::{RangeSource, Sink, Urgency};

/// Behaves like the source inside it.
#[derive(Debug)]
pub struct TimedSource<S> {
    source: S,
    metrics: Arc<Metrics>,
}

impl<S: RangeSource> TimedSource<S> {
    /// Times the fetches of `source`.
    #[must_use]
    pub fn new(source: S, metrics: &Arc<Metrics>) -> Self {
        Self {
            source,
            metrics: Arc::clone(metrics),
        }
    }
}

impl<S: RangeSource> RangeSource for TimedSource<S> {
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
        let began = Instant::now();
        let result = self.source.fetch(range, urgency, deadline, sink);
        let time = began.elapsed();
        self.metrics.fetch_times.of(urgency).record(time);
        self.metrics.fetch_peak.record(time);
        result
    }
}
