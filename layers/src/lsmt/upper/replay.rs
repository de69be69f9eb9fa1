//! Reading the index log of a layer that was written before.
//!
//! image -> lsmt upper -> **replay** (at open) -> files
//!
//! Later entries lie over earlier ones. An entry counts when it is known to be whole:
//! - before the last durable remark everything was flushed;
//! - behind it, a mapping that obd wrote counts when its check is there and the data has the
//!   checksum that the check says, else its whole batch is dropped: it was never flushed;
//! - a mapping that the C++ code wrote has no check; it counts unless its data would lie behind
//!   the end of the data file.
//!
//! A page of the log that never reached the device reads as zeros: such entries are dropped too.
//!
//! Source: format reference 1.3, 1.4 (7), 1.6.

use std::collections::VecDeque;
use std::ops::Range;

use super::index::UpperIndex;
use super::log::{CHECK_ENTRIES_MAX, CHECKED_TAG, LOG_START, LogEntry, add_to_checksum, entry_at};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{LOG_ENTRIES_MAX, SECTOR_BYTES, SECTOR_INVALID};
use crate::lsmt::index_file::DATA_FIRST_SECTOR;
use crate::lsmt::mapping::{ENTRY_BYTES, Mapping};
use crate::read_at::ReadAt;
use crate::write_at::WriteAt;

const OP: &str = "read index log";
const CHUNK_BYTES: usize = 1 << 20;

/// What a log says.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub(super) index: UpperIndex,
    /// Whole entries in the file, remarks and padding included.
    pub(super) entries: u64,
    /// Entries up to the last durable remark's promise.
    pub(super) durable_entries: u64,
    /// Numbers of the entries that do not count, in ascending runs.
    pub(super) dropped: Vec<Range<u64>>,
    /// Bytes of a last entry that is not whole.
    pub(super) torn_bytes: u64,
}

impl Replayed {
    /// Logs one warning when something in the log `name` does not count.
    pub(super) fn warn_dropped(&self, name: &str) {
        let dropped: u64 = self.dropped.iter().map(|run| run.end - run.start).sum();
        let what = match (dropped, self.torn_bytes) {
            (0, 0) => return,
            (dropped, 0) => format!("{dropped} index entries"),
            (0, torn) => format!("{torn} bytes of a last index entry"),
            (dropped, torn) => format!("{dropped} index entries and {torn} bytes of a last one"),
        };
        log::warn!("{name}: dropped {what}: never flushed, and not whole after a crash");
    }
}

/// What happens to data that is whole and was never flushed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Unflushed<'a> {
    /// Nothing: the layer is only read.
    Leave,
    /// It is written to this file once more. After a flush that failed the kernel may hold it in
    /// memory and believe that it is on the device.
    WriteAgain(&'a dyn WriteAt),
}

/// Replays the log in `index_file` over the data in `data_file`. Blocking.
///
/// # Errors
/// `Corrupt` for an entry that nobody can have written, or flushed data that is gone;
/// `Unsupported` for a log beyond the limit; `Io`.
pub(super) fn replay(
    index_file: &dyn ReadAt,
    data_file: &dyn ReadAt,
    unflushed: Unflushed<'_>,
) -> Result<Replayed> {
    let in_log = |error: Error| error.in_file(index_file.name());
    let log_bytes = index_file.size().saturating_sub(LOG_START);
    let entries = log_bytes / ENTRY_BYTES as u64;
    if entries > LOG_ENTRIES_MAX {
        let detail = format!("{entries} entries, at most {LOG_ENTRIES_MAX} allowed");
        return Err(in_log(Error::new(ErrorKind::Unsupported, OP, detail)));
    }
    let mut durable_entries = 0;
    let mut has_checks = false;
    // A flush begins only after the one before it is over: what is in front of the last remark but
    // one was on the device, itself included.
    let (mut flushed_entries, mut last_remark) = (0, 0);
    for_each_entry(index_file, entries, |number, entry| {
        match entry {
            LogEntry::Durable { entries } if entries <= number => {
                durable_entries = durable_entries.max(entries);
                has_checks = true;
                flushed_entries = last_remark;
                last_remark = number;
            }
            LogEntry::Check { .. } => has_checks = true,
            // A page that was lost may have held them.
            LogEntry::Mapping(mapping) => has_checks |= is_lost_page(mapping),
            LogEntry::Durable { .. } | LogEntry::Padding => {}
        }
        Ok(())
    })?;
    let mut replay = Replay {
        data_file,
        data_sectors: data_file.size() / SECTOR_BYTES,
        unflushed,
        flushed_entries,
        has_checks,
        unchecked: VecDeque::new(),
        buffer: Vec::new(),
        result: Replayed {
            entries,
            durable_entries,
            torn_bytes: log_bytes % ENTRY_BYTES as u64,
            ..Replayed::default()
        },
    };
    for_each_entry(index_file, entries, |number, entry| {
        replay.entry(number, entry).map_err(in_log)
    })?;
    replay.drop_unchecked(usize::MAX);
    replay.result.dropped.sort_unstable_by_key(|run| run.start);
    Ok(replay.result)
}

fn for_each_entry(
    file: &dyn ReadAt,
    entries: u64,
    mut entry: impl FnMut(u64, LogEntry) -> Result<()>,
) -> Result<()> {
    let all = usize::try_from(entries * ENTRY_BYTES as u64).unwrap_or(usize::MAX);
    let mut chunk = vec![0; CHUNK_BYTES.min(all)];
    let mut number = 0;
    while number < entries {
        let wanted = (entries - number).min((CHUNK_BYTES / ENTRY_BYTES) as u64);
        let len = usize::try_from(wanted).unwrap_or(CHUNK_BYTES) * ENTRY_BYTES;
        let Some(bytes) = chunk.get_mut(..len) else {
            break;
        };
        file.read_exact_at(entry_at(number), bytes)?;
        for bytes in bytes.as_chunks::<ENTRY_BYTES>().0 {
            entry(number, LogEntry::decode(*bytes))?;
            number += 1;
        }
    }
    Ok(())
}

struct Replay<'a> {
    data_file: &'a dyn ReadAt,
    data_sectors: u64,
    unflushed: Unflushed<'a>,
    /// Entries of the log itself that were flushed for certain.
    flushed_entries: u64,
    /// The log is obd's: in one of the C++ code the tag is the number of lower layers, of which
    /// there may be 255.
    has_checks: bool,
    /// Mappings that wait for their check: number and mapping. At most as many as a check covers.
    unchecked: VecDeque<(u64, Mapping)>,
    buffer: Vec<u8>,
    result: Replayed,
}

impl Replay<'_> {
    fn entry(&mut self, number: u64, entry: LogEntry) -> Result<()> {
        let durable = number < self.result.durable_entries;
        match entry {
            LogEntry::Mapping(mapping) if is_lost_page(mapping) => {
                if number < self.flushed_entries {
                    let detail = format!("entry {number} was flushed and is gone: zeros are there");
                    return Err(Error::corrupt(OP, detail).at(entry_at(number)));
                }
                self.drop_entry(number);
            }
            LogEntry::Mapping(mapping) => {
                check_shape(number, mapping)?;
                self.mapping(number, mapping, durable)?;
            }
            LogEntry::Check { entries, checksum } if !durable => self.check(entries, checksum)?,
            LogEntry::Check { .. } | LogEntry::Durable { .. } | LogEntry::Padding => {}
        }
        Ok(())
    }

    fn mapping(&mut self, number: u64, mapping: Mapping, durable: bool) -> Result<()> {
        let inside = mapping.is_zeroed() || mapping.moffset_end() <= self.data_sectors;
        if durable && !inside {
            let end = mapping.moffset_end() * SECTOR_BYTES;
            let detail = format!(
                "entry {number}: its data was flushed up to byte {end} of {}, which has only {} bytes",
                self.data_file.name(),
                self.data_file.size()
            );
            return Err(Error::corrupt(OP, detail).at(entry_at(number)));
        }
        if !durable && self.has_checks && mapping.tag() == CHECKED_TAG {
            if self.unchecked.len() == CHECK_ENTRIES_MAX {
                self.drop_unchecked(1);
            }
            self.unchecked.push_back((number, mapping));
        } else if inside {
            self.insert(mapping);
        } else {
            self.drop_entry(number);
        }
        Ok(())
    }

    fn insert(&mut self, mapping: Mapping) {
        let (offset, sectors) = (mapping.offset(), mapping.sectors());
        if sectors == 0 {
            return;
        }
        let mapping = match mapping.is_zeroed() {
            // The data file may have been longer when the C++ code noted where it ended.
            true => {
                let end = self.data_sectors.max(DATA_FIRST_SECTOR);
                Mapping::zeroed(offset, sectors, mapping.moffset().min(end), 0)
            }
            false => mapping.with_tag(0),
        };
        self.result.index.insert(mapping, |_| {});
    }

    fn drop_entry(&mut self, number: u64) {
        match self.result.dropped.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => self.result.dropped.push(number..number + 1),
        }
    }

    /// Decides about the mappings before a check. Those in front of them have lost theirs.
    fn check(&mut self, entries: u64, checksum: u32) -> Result<()> {
        let covered = usize::try_from(entries).unwrap_or(usize::MAX);
        self.drop_unchecked(self.unchecked.len().saturating_sub(covered));
        let complete = self.unchecked.len() == covered;
        if !complete || self.checksum()? != Some(checksum) {
            self.drop_unchecked(usize::MAX);
            return Ok(());
        }
        for (_, mapping) in std::mem::take(&mut self.unchecked) {
            if let Unflushed::WriteAgain(file) = self.unflushed
                && !mapping.is_zeroed()
            {
                self.read_data(mapping)?;
                file.write_at(mapping.moffset() * SECTOR_BYTES, &self.buffer)?;
            }
            self.insert(mapping);
        }
        Ok(())
    }

    /// Drops the first `count` mappings that wait, or all.
    fn drop_unchecked(&mut self, count: usize) {
        for _ in 0..count.min(self.unchecked.len()) {
            if let Some((number, _)) = self.unchecked.pop_front() {
                self.drop_entry(number);
            }
        }
    }

    /// Checksum of the waiting mappings; `None` when data is missing.
    fn checksum(&mut self) -> Result<Option<u32>> {
        let mut checksum = 0;
        for at in 0..self.unchecked.len() {
            let Some((_, mapping)) = self.unchecked.get(at).copied() else {
                break;
            };
            let mut data_checksum = 0;
            if !mapping.is_zeroed() {
                if mapping.moffset_end() > self.data_sectors {
                    return Ok(None);
                }
                self.read_data(mapping)?;
                data_checksum = crc32c::crc32c(&self.buffer);
            }
            checksum = add_to_checksum(checksum, mapping, data_checksum);
        }
        Ok(Some(checksum))
    }

    fn read_data(&mut self, mapping: Mapping) -> Result<()> {
        let bytes = usize::try_from(mapping.sectors() * SECTOR_BYTES).unwrap_or(0);
        self.buffer.resize(bytes, 0);
        let offset = mapping.moffset() * SECTOR_BYTES;
        self.data_file.read_exact_at(offset, &mut self.buffer)
    }
}

/// Sixteen zeros: no writer makes such an entry.
fn is_lost_page(mapping: Mapping) -> bool {
    mapping.to_bytes() == [0; ENTRY_BYTES]
}

/// Rules that no torn write breaks.
fn check_shape(number: u64, mapping: Mapping) -> Result<()> {
    let (offset, sectors, moffset) = (mapping.offset(), mapping.sectors(), mapping.moffset());
    let broken = if mapping.end() > SECTOR_INVALID {
        format!("{sectors} sectors at {offset} pass the largest address")
    } else if moffset < DATA_FIRST_SECTOR {
        format!("data sector {moffset} lies in the header")
    } else {
        return Ok(());
    };
    Err(Error::corrupt(OP, format!("entry {number}: {broken}")).at(entry_at(number)))
}
