//! Changes on their way into the index log.
//!
//! image -> **lsmt write batch** -> log (no I/O here)

use super::gate::Pass;
use crate::lsmt::mapping::Mapping;

/// An index entry whose data is in the data file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Staged {
    pub(super) mapping: Mapping,
    /// CRC-32C of its data; 0 for zeroes, which have none.
    pub(super) data_checksum: u32,
}

/// Writes that are in the data file and not yet in the log. Reused from batch to batch. While it
/// holds anything, the layer it belongs to is not sealed.
#[derive(Debug, Default)]
pub struct WriteBatch {
    entries: Vec<Staged>,
    pass: Option<Pass>,
}

impl WriteBatch {
    /// True from the first attempt to stage something until the commit.
    #[must_use]
    pub(crate) fn holds_pass(&self) -> bool {
        self.pass.is_some()
    }

    pub(super) fn entries(&self) -> &[Staged] {
        &self.entries
    }

    pub(super) fn push(&mut self, mapping: Mapping, data_checksum: u32) {
        self.entries.push(Staged {
            mapping,
            data_checksum,
        });
    }

    /// Lets the batch belong to the layer behind a gate.
    pub(crate) fn hold(&mut self, pass: Pass) {
        self.pass = Some(pass);
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.pass = None;
    }
}
