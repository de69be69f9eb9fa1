//! Writes that come together are committed together: one append to the log for all of them.
//!
//! dispatch (ring thread), write queue -> **gather** -> image
//!
//! Invariant: what is staged is committed before whoever gathers it waits for anything: while it is
//! not, the layers cannot change.

use layers::{Progress, Wait, WriteBatch};

use crate::data::Data;
use crate::disk::Disk;
use crate::ring::Status;
use crate::scsi::ByteRange;
use crate::sense;

/// Writes that are committed together.
const WRITES_MAX: usize = 16;

/// Bytes that are committed together, unless one write has more.
const BYTES_MAX: u64 = 1 << 20;

/// The longest piece of a write that is copied at once.
const COPY_BYTES: usize = 256 << 10;

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct Gather {
    batch: WriteBatch,
    /// Commands whose data is staged, and their bytes.
    staged: Vec<(u16, u64)>,
    staged_bytes: u64,
    buffer: Vec<u8>,
    /// Something is staged, perhaps of a write that failed.
    is_dirty: bool,
}

impl Gather {
    /// Stages the data of the write `id`. With [`Wait::Never`] and `Pending` it is somebody else's; what
    /// was staged of it does no harm.
    ///
    /// # Errors
    /// How the command ends.
    pub(crate) fn stage(
        &mut self,
        disk: &Disk,
        id: u16,
        mut data: Data<'_>,
        range: ByteRange,
        wait: Wait,
    ) -> Result<Progress, Status> {
        if data.len() < range.len {
            return Err(sense::short_data(disk));
        }
        self.is_dirty = true;
        self.buffer.resize(COPY_BYTES, 0);
        let end = range.offset + range.len;
        let mut offset = range.offset;
        while offset < end {
            let len = usize::try_from(end - offset).map_or(COPY_BYTES, |left| left.min(COPY_BYTES));
            let buf = self.buffer.get_mut(..len).unwrap_or_default();
            if data.copy_out(buf) < len {
                return Err(sense::short_data(disk));
            }
            let image = disk.image();
            let stage = || image.stage_write(&mut self.batch, offset, buf, wait);
            let staged = disk.pace().time(stage);
            if staged.map_err(|error| sense::of_write(disk, &error))? == Progress::Pending {
                return Ok(Progress::Pending);
            }
            offset += len as u64;
        }
        self.staged.push((id, range.len));
        self.staged_bytes += range.len;
        Ok(Progress::Done)
    }

    /// Is it time to commit?
    pub(crate) fn is_full(&self) -> bool {
        self.staged.len() >= WRITES_MAX || self.staged_bytes >= BYTES_MAX
    }

    /// Commits what is staged, and says how each command ends, and how many bytes it had.
    pub(crate) fn commit(&mut self, disk: &Disk, mut answer: impl FnMut(u16, u64, Status)) {
        if !std::mem::take(&mut self.is_dirty) {
            return;
        }
        let committed = disk.pace().time(|| disk.image().commit(&mut self.batch));
        let status = match committed {
            Ok(()) => Status::Good,
            Err(error) => sense::of_write(disk, &error),
        };
        self.staged_bytes = 0;
        for (id, bytes) in self.staged.drain(..) {
            answer(id, bytes, status);
        }
    }
}
