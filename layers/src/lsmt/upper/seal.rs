//! Turning a writable layer into a read-only one, in place.
//!
//! tool | image -> **seal** -> files
//!
//! The index goes behind the data, then a trailer; the index log is of no use any more. Garbage
//! stays in the data. A crash before the end leaves a layer that is still writable.
//!
//! Source: format reference 1.6 (seal), 1.7.

use std::path::Path;

use super::Upper;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{LAYER_INDEX_ENTRIES_MAX, SECTOR_BYTES};
use crate::lsmt::format::{HEADER_BYTES, Record};
use crate::write_at::WriteAt;

const OP: &str = "seal layer";

/// Opens a pair and seals its data file. Blocking.
///
/// # Errors
/// As [`Upper::open`] and [`Upper::seal`].
pub fn seal(data: &Path, index: &Path) -> Result<()> {
    Upper::open(data, index)?.seal().map(|_| ())
}

impl Upper {
    /// Appends index and trailer to the data file. The layer must not be written afterwards.
    /// Returns where the data ends, in bytes. Blocking.
    ///
    /// # Errors
    /// `Unsupported` for more mappings than a read-only layer may have; `NoSpace`, `Io`: then the
    /// layer is as it was.
    pub fn seal(&self) -> Result<u64> {
        self.flush()?;
        let entries = self.index().len() as u64;
        if entries > LAYER_INDEX_ENTRIES_MAX {
            let detail = format!(
                "{entries} mappings, a sealed layer has at most {LAYER_INDEX_ENTRIES_MAX}; a commit, \
                 which joins neighbours, may have fewer"
            );
            let error = Error::new(ErrorKind::Unsupported, OP, detail);
            return Err(error.in_file(self.data().name()));
        }
        let data = self.data();
        let end = data.size().next_multiple_of(SECTOR_BYTES);
        let sealed = self.append_index(data, end, entries);
        if sealed.is_err() {
            self.unseal(end);
        }
        sealed.map(|()| end)
    }

    /// Takes back what [`Upper::seal`] did, which has returned `end`.
    pub(crate) fn unseal(&self, end: u64) {
        let data = self.data();
        let trailer_at = data.size().saturating_sub(HEADER_BYTES as u64);
        let undone = data.set_size(end).or_else(|error| match trailer_at >= end {
            // Without it the layer is a writable one.
            true => data.write_at(trailer_at, &[0; HEADER_BYTES]),
            false => Err(error),
        });
        if let Err(error) = undone.and_then(|()| data.flush()) {
            // Still a writable layer, if there is no trailer, with garbage behind its data.
            log::warn!("an index that is not whole stays behind the data: {error}");
        }
    }

    fn append_index(&self, data: &dyn WriteAt, end: u64, entries: u64) -> Result<()> {
        let mut tail: Vec<u8> = self
            .index()
            .iter()
            .flat_map(|mapping| mapping.to_bytes())
            .collect();
        let sector = usize::try_from(SECTOR_BYTES).unwrap_or(usize::MAX);
        tail.resize(tail.len().next_multiple_of(sector), 0);
        let trailer = Record {
            flags: self.header.sealed_trailer_flags(),
            index_offset_bytes: end,
            index_entries: entries,
            virtual_size_bytes: self.virtual_size_bytes(),
            user_tag: Vec::new(),
            ..self.header.clone()
        };
        // Nothing of a write that failed half way may stay behind the trailer.
        data.set_size(end)?;
        data.write_at(end, &tail)?;
        data.flush()?;
        // Only now, so that a trailer on the device has its index before it.
        data.write_at(end + tail.len() as u64, &trailer.encode())?;
        data.flush()
    }
}
