//! Fetches of what nobody reads yet: the ends of a blob, what a reader in order will want, prefetches.
//!
//! cached blob -> **ahead** -> flight

use super::*;

impl CachedBlob {
    /// Has the ends of the blob fetched, without waiting: whoever opens it reads them next.
    pub(super) fn fetch_ends(&self) {
        if !self.blob.is_keeping() {
            return;
        }
        let size = self.size();
        let deadline = self.wanted.patience.deadline();
        let tail = size.saturating_sub(TAIL_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
        let head_end = if tail <= HEAD_BYTES { size } else { HEAD_BYTES };
        for range in [0..head_end, tail.max(head_end)..size] {
            self.queue(&self.plan(&range, Urgency::Guest, deadline, None, 1));
        }
    }

    /// Has these bytes fetched and kept, unless they are here. Blocks until they are, or could not be
    /// kept. What ends beyond the blob is cut.
    ///
    /// # Errors
    /// Those of the source.
    pub fn prefetch(&self, range: Range<u64>, urgency: Urgency) -> Result<()> {
        let deadline = self.wanted.patience.deadline();
        let end = range.end.min(self.size());
        let mut start = range.start;
        let mut is_repeated = false;
        // What would not be kept is not worth the origin's time.
        while start < end && self.blob.is_keeping() {
            let window = start..end.min(start + WINDOW_BYTES);
            let plan = self.plan(&window, urgency, deadline, None, self.align_blocks(1));
            self.queue(&plan);
            match self.wait_for_all(&plan, deadline) {
                Ok(()) => (start, is_repeated) = (window.end, false),
                // Who asked for it had less patience, or another way to the origin.
                Err((error, false)) if !is_repeated => {
                    log::debug!("{error}; asked again");
                    is_repeated = true;
                }
                Err((error, _)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until every flight of `plan` has ended. True with an error: the flight was the plan's own.
    fn wait_for_all(
        &self,
        plan: &Plan,
        deadline: Instant,
    ) -> std::result::Result<(), (Error, bool)> {
        for part in &plan.parts {
            let Some(flight) = &part.flight else { continue };
            let is_own = plan.own.iter().any(|own| Arc::ptr_eq(own, flight));
            match flight.wait_for_end(deadline) {
                Waited::Here => {}
                Waited::Failed(error) => return Err((error, is_own)),
                Waited::TooLate => return Err((self.too_late(part.range.start), true)),
            }
        }
        Ok(())
    }

    /// Has fetched what a reader in order will want next.
    pub(super) fn fetch_ahead(&self, range: &Range<u64>, has_missed: bool) {
        if self.blob.cache.refill_bytes.is_some() || !self.blob.is_keeping() {
            return;
        }
        let read_ahead = &self.blob.read_ahead;
        let mut read_ahead = read_ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = match has_missed {
            true => read_ahead.missed(range),
            false => read_ahead.looked_at(&blocks_of(range)),
        };
        drop(read_ahead);
        let Some(Ahead { range, mark }) = ahead else {
            return;
        };
        let range = range.start.min(self.size())..range.end.min(self.size());
        if range.is_empty() {
            return;
        }
        if let Some(kept) = self.blob.kept() {
            kept.forget_verified(&(mark..mark + 1));
        }
        let deadline = self.wanted.patience.deadline();
        self.queue(&self.plan(&range, Urgency::Background, deadline, Some(mark), 1));
    }
}
