//! The index log: 16-byte entries in the order of the writes.
//!
//! image -> lsmt upper -> **index log** -> file
//!
//! The entries are those of the C++ code, with one freedom used: an entry of the invalid sector is
//! skipped by every reader whatever else it holds, so it carries remarks.
//!
//! | entry | tag | length | moffset |
//! |---|---|---|---|
//! | mapping | 255: a check follows | sectors | where the data is |
//! | check remark | 1 | entries before it that it covers | CRC-32C over each of them and the CRC-32C of its data |
//! | durable remark | 2 | 0 | entries from the start of the log whose data has been flushed |
//!
//! A batch of writes is one append: its mappings, then a check. So a log that a power cut has
//! torn, or that reached the device before the data did, is told from a whole one.
//!
//! Invariants
//! - the log is a sequence: its lock is held while a batch is appended (to the page cache) and
//!   made part of the index, so that both have the same order. It is never held across data I/O
//!   or a flush.
//! - what is behind the last batch that was appended as a whole is cut off before the next one.
//!
//! Source: format reference 1.3, 1.6.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::batch::Staged;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::LOG_ENTRIES_MAX;
use crate::lsmt::format::HEADER_BYTES;
use crate::lsmt::mapping::{ENTRY_BYTES, Mapping};
use crate::write_at::WriteAt;

/// Tag of a mapping that a check covers. C++ writes the number of lower layers there, which is
/// less, and ignores it when it reads.
pub(super) const CHECKED_TAG: u8 = u8::MAX;

const CHECK_KIND: u8 = 1;
const DURABLE_KIND: u8 = 2;

/// Most mappings that one check covers: its 14-bit length field.
pub(super) const CHECK_ENTRIES_MAX: usize = 8192;

/// Room that is kept for durable remarks, so that a disk whose log is full can be flushed.
const RESERVED_ENTRIES: u64 = 1 << 16;

/// First byte of the log in its file.
pub(super) const LOG_START: u64 = HEADER_BYTES as u64;

/// What an entry of the log says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogEntry {
    /// A write or a discard.
    Mapping(Mapping),
    /// The entries before it are what was written.
    Check { entries: u64, checksum: u32 },
    /// The data of the first `entries` entries is on the device.
    Durable { entries: u64 },
    /// Nothing.
    Padding,
}

impl LogEntry {
    pub(super) fn decode(bytes: [u8; ENTRY_BYTES]) -> Self {
        let entry = Mapping::from_bytes(bytes);
        if !entry.is_padding() {
            return Self::Mapping(entry);
        }
        match (entry.tag(), u32::try_from(entry.moffset())) {
            (CHECK_KIND, Ok(checksum)) => Self::Check {
                entries: entry.sectors(),
                checksum,
            },
            (DURABLE_KIND, _) => Self::Durable {
                entries: entry.moffset(),
            },
            _ => Self::Padding,
        }
    }

    fn encode(self) -> [u8; ENTRY_BYTES] {
        let entry = match self {
            Self::Mapping(mapping) => mapping,
            Self::Check { entries, checksum } => {
                Mapping::remark(CHECK_KIND, entries, u64::from(checksum))
            }
            Self::Durable { entries } => Mapping::remark(DURABLE_KIND, 0, entries),
            Self::Padding => Mapping::PADDING,
        };
        entry.to_bytes()
    }
}

/// Adds one entry of a batch to the checksum of those before it.
pub(super) fn add_to_checksum(checksum: u32, entry: Mapping, data_checksum: u32) -> u32 {
    let checksum = crc32c::crc32c_append(checksum, &entry.to_bytes());
    crc32c::crc32c_append(checksum, &data_checksum.to_le_bytes())
}

/// A log open for appending.
#[derive(Debug)]
pub(super) struct IndexLog {
    file: Box<dyn WriteAt>,
    tail: Mutex<Tail>,
}

#[derive(Debug)]
pub(super) struct Tail {
    /// Entries appended as a whole.
    entries: u64,
    /// There may be bytes behind them.
    torn: bool,
    /// Reused from batch to batch.
    bytes: Vec<u8>,
}

impl IndexLog {
    /// Goes on after the first `entries` entries; the file may be longer.
    pub(super) fn new(file: Box<dyn WriteAt>, entries: u64) -> Self {
        let torn = file.size() != entry_at(entries);
        let tail = Tail {
            entries,
            torn,
            bytes: Vec::new(),
        };
        Self {
            file,
            tail: Mutex::new(tail),
        }
    }

    pub(super) fn file(&self) -> &dyn WriteAt {
        &*self.file
    }

    fn lock(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries so far, while nobody appends; `look` runs before anybody does.
    pub(super) fn entries_and<T>(&self, look: impl FnOnce() -> T) -> (u64, T) {
        let tail = self.lock();
        (tail.entries, look())
    }

    /// Appends `staged` and its checks in one write, then runs `publish` before anybody else
    /// appends.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: then the log is as before. `Unsupported` when it is full.
    pub(super) fn append(&self, staged: &[Staged], publish: impl FnOnce()) -> Result<()> {
        let mut tail = self.lock();
        tail.bytes.clear();
        if tail.entries == 0 {
            // Tells whose log this is, also to those who find the first batch torn.
            tail.bytes.extend(LogEntry::Durable { entries: 0 }.encode());
        }
        for covered in staged.chunks(CHECK_ENTRIES_MAX) {
            let mut checksum = 0;
            for Staged {
                mapping,
                data_checksum,
            } in covered
            {
                let entry = mapping.with_tag(CHECKED_TAG);
                checksum = add_to_checksum(checksum, entry, *data_checksum);
                tail.bytes.extend(LogEntry::Mapping(entry).encode());
            }
            let entries = covered.len() as u64;
            tail.bytes
                .extend(LogEntry::Check { entries, checksum }.encode());
        }
        self.write_tail(&mut tail, LOG_ENTRIES_MAX - RESERVED_ENTRIES)?;
        publish();
        Ok(())
    }

    /// Appends the remark that the data of the first `entries` entries is on the device.
    ///
    /// # Errors
    /// As [`IndexLog::append`].
    pub(super) fn append_durable(&self, entries: u64) -> Result<()> {
        let mut tail = self.lock();
        tail.bytes.clear();
        tail.bytes.extend(LogEntry::Durable { entries }.encode());
        self.write_tail(&mut tail, LOG_ENTRIES_MAX)
    }

    fn write_tail(&self, tail: &mut Tail, entries_max: u64) -> Result<()> {
        let added = (tail.bytes.len() / ENTRY_BYTES) as u64;
        if tail.entries + added > entries_max {
            let detail = format!(
                "the index log is full with {} entries: seal or commit the layer and start a new one",
                tail.entries
            );
            let error = Error::new(ErrorKind::NoSpace, "append to index log", detail);
            return Err(error.in_file(self.file.name()));
        }
        self.warn_filling(tail.entries, added);
        let end = entry_at(tail.entries);
        if tail.torn {
            self.file.set_size(end)?;
            tail.torn = false;
        }
        if let Err(error) = self.file.write_at(end, &tail.bytes) {
            // If this fails too the next append tries again first.
            tail.torn = self.file.set_size(end).is_err();
            return Err(error);
        }
        tail.entries += added;
        Ok(())
    }
}

impl IndexLog {
    /// Once at half and once at nine tenths.
    fn warn_filling(&self, entries: u64, added: u64) {
        for (percent, warn_at) in [(50, LOG_ENTRIES_MAX / 2), (90, LOG_ENTRIES_MAX / 10 * 9)] {
            if entries < warn_at && entries + added >= warn_at {
                let name = self.file.name();
                log::warn!(
                    "{name}: the index log is {percent} % full; when it is full no write succeeds: \
                     seal or commit the layer and start a new one"
                );
            }
        }
    }
}

/// Byte at which entry `number` starts.
pub(super) fn entry_at(number: u64) -> u64 {
    LOG_START + number * ENTRY_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_survives_the_round_trip() {
        for entry in [
            LogEntry::Mapping(Mapping::data(8, 8, 16, CHECKED_TAG)),
            LogEntry::Check {
                entries: 8192,
                checksum: u32::MAX,
            },
            LogEntry::Durable {
                entries: LOG_ENTRIES_MAX,
            },
            LogEntry::Padding,
        ] {
            assert_eq!(LogEntry::decode(entry.encode()), entry);
        }
    }

    #[test]
    fn remarks_are_padding_to_a_reader_that_does_not_know_them() {
        let check = LogEntry::Check {
            entries: 1,
            checksum: 2,
        };
        for remark in [check, LogEntry::Durable { entries: 3 }] {
            let bytes = remark.encode();
            assert_eq!(bytes[..6], [0xFF; 6]);
            assert_eq!(bytes[6] & 3, 3, "the 50 bits of the invalid sector");
        }
    }
}
