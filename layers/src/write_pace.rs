//! May a ring's own thread write to this image?
//!
//! front ends: ring thread, pool -> **write pace** -> ring thread
//!
//! A write goes to the page cache and takes microseconds, until the kernel holds the writer up
//! because too much memory waits for the disk: then any write may take a tenth of a second, and
//! requests of the ring that have nothing to do with writing wait behind it.
//!
//! The rule: after a step of a write that took longer than [`STEP_SLOW`], whoever did it, all
//! writes of this disk go to the pool for [`POOL_TIME`]. So a ring is held up at most once in that
//! time, and a disk that is fast again is written to directly again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::ClockId;

/// As long as a worker may leave its other events alone. A step copies at most 1 MiB.
pub const STEP_SLOW: Duration = Duration::from_millis(2);

/// How long writes stay in the pool after a slow one.
pub const POOL_TIME: Duration = Duration::from_secs(1);

/// How writes to one disk have gone lately.
#[derive(Debug)]
pub struct WritePace {
    clock: ClockId,
    /// By the clock; 0 when no step was slow lately.
    pool_until_ms: AtomicU64,
    step_slow: Duration,
}

impl Default for WritePace {
    fn default() -> Self {
        Self {
            clock: ClockId::Monotonic,
            pool_until_ms: AtomicU64::new(0),
            step_slow: STEP_SLOW,
        }
    }
}

impl WritePace {
    /// By the clock of the kernel's ticks, which costs nothing to read also where the hardware's is slow, as
    /// in many virtual machines. Then a step is slow when more than two ticks passed meanwhile: the kernel holds a writer
    /// up for 10 ms or more, and another thread's turn on the processor is shorter.
    #[must_use]
    pub fn by_ticks() -> Self {
        let clock = ClockId::MonotonicCoarse;
        let tick = rustix::time::clock_getres(clock);
        let tick = Duration::try_from(tick).unwrap_or(STEP_SLOW);
        Self {
            clock,
            // The time between two ticks is never quite the same.
            step_slow: STEP_SLOW.max(tick * 5 / 2),
            ..Self::default()
        }
    }

    /// For tests: quick on however busy a machine.
    #[must_use]
    pub fn always_quick() -> Self {
        Self {
            step_slow: Duration::MAX,
            ..Self::default()
        }
    }

    /// For tests: every write goes to the pool.
    #[must_use]
    pub fn always_slow() -> Self {
        Self {
            pool_until_ms: AtomicU64::new(u64::MAX),
            ..Self::default()
        }
    }

    /// May a thread that must not be held up write now?
    #[must_use]
    pub fn is_quick(&self) -> bool {
        match self.pool_until_ms.load(Ordering::Relaxed) {
            0 => true,
            until => self.is_quick_at(until, self.now()),
        }
    }

    #[cold]
    fn is_quick_at(&self, until: u64, now: Duration) -> bool {
        let over = millis(now) >= until;
        if over {
            // Unless somebody has been slow meanwhile; who loses the race looks again next time.
            self.pool_until_ms
                .compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        } else {
            false
        }
    }

    fn now(&self) -> Duration {
        Duration::try_from(rustix::time::clock_gettime(self.clock)).unwrap_or_default()
    }

    /// Does one step of a write and takes its time.
    pub fn time<T>(&self, step: impl FnOnce() -> T) -> T {
        let start = self.now();
        let result = step();
        let end = self.now();
        if end.saturating_sub(start) > self.step_slow {
            self.note_slow(end);
        }
        result
    }

    #[cold]
    fn note_slow(&self, end: Duration) {
        let until = millis(end.saturating_add(POOL_TIME)).max(1);
        self.pool_until_ms.fetch_max(until, Ordering::Relaxed);
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_step_sends_writes_to_the_pool_for_a_while() {
        let pace = WritePace::default();
        assert!(pace.is_quick());
        let start = pace.now();
        pace.note_slow(start + Duration::from_millis(10));
        let until = pace.pool_until_ms.load(Ordering::Relaxed);
        let later = start + Duration::from_millis(10) + POOL_TIME;
        assert!(!pace.is_quick_at(until, later - Duration::from_millis(1)));
        assert!(pace.is_quick_at(until, later));
        assert!(pace.is_quick());
    }

    #[test]
    fn a_quick_step_stays_quick_by_the_clock_of_ticks() {
        let pace = WritePace::by_ticks();
        let ticks = pace.step_slow;
        pace.time(|| ());
        assert!(pace.is_quick());
        pace.time(|| {
            let start = pace.now();
            while pace.now() - start <= ticks {}
        });
        assert!(!pace.is_quick());
    }

    #[test]
    fn another_slow_step_makes_it_longer() {
        let pace = WritePace::default();
        let start = pace.now();
        pace.note_slow(start);
        pace.note_slow(start + POOL_TIME / 2);
        let until = pace.pool_until_ms.load(Ordering::Relaxed);
        assert!(!pace.is_quick_at(until, start + POOL_TIME));
        assert!(pace.is_quick_at(until, start + POOL_TIME * 3 / 2));
    }
}
