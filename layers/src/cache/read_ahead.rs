//! Who reads a blob in order, and what they will want next.
//!
//! cached blob -> **read ahead**
//!
//! The second miss that follows on another begins a stream. Its window doubles each time, up to 2 MiB;
//! the middle of a window carries a mark, and reading the mark has the next window fetched, so that a
//! steady reader does not wait again.

use std::ops::Range;

use super::record::BLOCK_BYTES;

const STREAMS: usize = 4;
const WINDOW_BYTES_MIN: u64 = 64 << 10;
const WINDOW_BYTES_MAX: u64 = 2 << 20;
/// A miss this far behind the last one follows on it.
const GAP_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Default, Clone, Copy)]
struct Stream {
    /// Where the next miss is expected, in bytes.
    next: u64,
    /// Bytes fetched ahead last; 0: one miss so far.
    window: u64,
    /// The block with the mark.
    mark: Option<u64>,
    /// When it was used last, in uses of all streams.
    used: u64,
}

/// What is to be fetched ahead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ahead {
    /// Bytes; may end beyond the blob.
    pub(super) range: Range<u64>,
    /// The block whose reading asks for more.
    pub(super) mark: u64,
}

/// The streams of one blob.
#[derive(Debug, Default)]
pub(super) struct ReadAhead {
    streams: [Stream; STREAMS],
    uses: u64,
}

impl ReadAhead {
    /// A read missed `range`.
    pub(super) fn missed(&mut self, range: &Range<u64>) -> Option<Ahead> {
        self.uses += 1;
        let uses = self.uses;
        let is_ahead = |stream: &&mut Stream| {
            (stream.next.saturating_sub(stream.window)..stream.next).contains(&range.start)
        };
        if let Some(stream) = self.streams.iter_mut().find(is_ahead) {
            // It waits for what was fetched ahead, and is quicker than that.
            stream.used = uses;
            let is_marked = stream
                .mark
                .is_some_and(|mark| mark * BLOCK_BYTES < range.end);
            let next = stream.next;
            return is_marked.then(|| stream.advance(next));
        }
        let follows = |stream: &&mut Stream| {
            stream.used > 0 && (stream.next..=stream.next + GAP_BYTES_MAX).contains(&range.start)
        };
        if let Some(stream) = self.streams.iter_mut().find(follows) {
            stream.used = uses;
            return Some(stream.advance(range.end));
        }
        if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = Stream {
                next: range.end,
                window: 0,
                mark: None,
                used: uses,
            };
        }
        None
    }

    /// A read found these blocks kept, but looked at them for the first time.
    pub(super) fn looked_at(&mut self, blocks: &Range<u64>) -> Option<Ahead> {
        self.uses += 1;
        let is_marked =
            |stream: &&mut Stream| stream.mark.is_some_and(|mark| blocks.contains(&mark));
        let stream = self.streams.iter_mut().find(is_marked)?;
        stream.used = self.uses;
        let next = stream.next;
        Some(stream.advance(next))
    }
}

impl Stream {
    fn advance(&mut self, from: u64) -> Ahead {
        self.window = (self.window * 2).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        let start = from
            .max(self.next.min(from + self.window))
            .next_multiple_of(BLOCK_BYTES);
        let range = start..start + self.window;
        let mark = (start + self.window / 2) / BLOCK_BYTES;
        self.next = range.end;
        self.mark = Some(mark);
        Ahead { range, mark }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_in_order_are_fetched_ahead_in_windows_that_double() {
        let mut streams = ReadAhead::default();
        assert_eq!(streams.missed(&(0..4096)), None);
        let first = streams.missed(&(32768..36864)).unwrap();
        assert_eq!(first.range, 36864..36864 + (64 << 10));
        let second = streams.looked_at(&(first.mark..first.mark + 1)).unwrap();
        assert_eq!(second.range, first.range.end..first.range.end + (128 << 10));
        assert!(second.range.contains(&(second.mark * BLOCK_BYTES)));
        let mut last = second;
        for _ in 0..10 {
            last = streams.looked_at(&(last.mark..last.mark + 1)).unwrap();
        }
        assert_eq!(last.range.end - last.range.start, WINDOW_BYTES_MAX);
    }

    #[test]
    fn reads_all_over_the_blob_are_not_fetched_ahead() {
        let mut streams = ReadAhead::default();
        for number in 0..100_u64 {
            let start = (number * 7919 % 1000) << 20;
            assert_eq!(streams.missed(&(start..start + 4096)), None);
        }
        assert_eq!(streams.looked_at(&(3..4)), None);
    }

    #[test]
    fn several_readers_in_order_are_told_apart() {
        let mut streams = ReadAhead::default();
        for reader in 0..3_u64 {
            assert_eq!(streams.missed(&(reader << 30..(reader << 30) + 4096)), None);
        }
        for reader in 0..3_u64 {
            let start = (reader << 30) + 4096;
            assert!(streams.missed(&(start..start + 4096)).is_some());
        }
    }
}
