//! The longest time of the last seconds.
//!
//! whoever waited -> **peak** -> page
//!
//! Source: format reference 9.2 (the maximum of the last two windows of 5 s).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(5);

/// Low half of a slot: microseconds. High half: number of the window they belong to, plus one.
const MICROS_BITS: u32 = 32;
const MICROS_MAX: u64 = u32::MAX as u64;

/// The longest time in the current window of 5 s and the one before. Takes no lock.
#[derive(Debug)]
pub struct Peak {
    start: Instant,
    /// Even and odd windows.
    slots: [AtomicU64; 2],
}

impl Default for Peak {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            slots: Default::default(),
        }
    }
}

impl Peak {
    /// Something that has ended now took this long; more than 71 minutes count as those.
    pub fn record(&self, time: Duration) {
        self.record_at(Instant::now(), time);
    }

    fn record_at(&self, now: Instant, time: Duration) {
        let window = self.window(now);
        let [even, odd] = &self.slots;
        let slot = if window.is_multiple_of(2) { even } else { odd };
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // Of a later window even the shortest time is larger, of the same one the longer.
        let value = (window << MICROS_BITS) | micros.min(MICROS_MAX);
        slot.fetch_max(value, Ordering::Relaxed);
    }

    /// Microseconds; 0 when there was nothing.
    #[must_use]
    pub fn micros(&self) -> u64 {
        self.micros_at(Instant::now())
    }

    fn micros_at(&self, now: Instant) -> u64 {
        let window = self.window(now);
        let values = self.slots.each_ref().map(|slot| {
            let value = slot.load(Ordering::Relaxed);
            let age = window.checked_sub(value >> MICROS_BITS);
            age.filter(|age| *age <= 1).map(|_| value & MICROS_MAX)
        });
        values.into_iter().flatten().max().unwrap_or(0)
    }

    fn window(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / WINDOW.as_secs() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_time_is_told_for_its_window_and_the_next() {
        let peak = Peak::default();
        let at = |seconds| peak.start + Duration::from_secs(seconds);
        let millis = Duration::from_millis;
        peak.record_at(at(1), millis(7));
        peak.record_at(at(2), millis(3));
        assert_eq!(peak.micros_at(at(2)), 7000);
        peak.record_at(at(6), millis(2));
        assert_eq!(peak.micros_at(at(9)), 7000);
        assert_eq!(peak.micros_at(at(10)), 2000, "the first window is over");
        peak.record_at(at(11), millis(1));
        assert_eq!(peak.micros_at(at(14)), 2000);
        assert_eq!(peak.micros_at(at(19)), 1000);
        assert_eq!(peak.micros_at(at(60)), 0);
    }

    #[test]
    fn a_time_beyond_the_range_is_the_end_of_the_range() {
        let peak = Peak::default();
        peak.record_at(peak.start, Duration::from_secs(1 << 40));
        assert_eq!(peak.micros_at(peak.start), MICROS_MAX);
    }
}
