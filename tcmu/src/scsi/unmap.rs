//! UNMAP and its list of ranges.
//!
//! cdb, execute -> **unmap** -> disk, limits
//!
//! Source: SBC-3 (UNMAP command).

use crate::scsi::cdb::{Action, Cdb};
use crate::scsi::disk::{ByteRange, Disk};
use crate::scsi::fields::{be16, be32, be64};
use crate::scsi::limits::{UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX};
use crate::scsi::sense::{Field, Sense};

/// Bytes before the descriptors.
const HEADER_BYTES: usize = 8;

/// `UNMAP LOGICAL BLOCK ADDRESS`, `NUMBER OF LOGICAL BLOCKS`, four reserved bytes.
const DESCRIPTOR_BYTES: usize = 16;

pub(crate) fn unmap(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    // ANCHOR: blocks are not kept for a range that is unmapped.
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(1, 0)));
    }
    disk.check_writable()?;
    Ok(match usize::from(be16(cdb, 7)) {
        0 => Action::Done,
        list_len => Action::Unmap { list_len },
    })
}

/// The ranges of an UNMAP parameter list, in its order; they may overlap. Ranges of no blocks are
/// left out, and so are descriptors that are not wholly there.
///
/// # Errors
/// The sense data to answer with; then nothing may be unmapped.
pub fn unmap_ranges(list: &[u8], disk: &Disk) -> Result<Vec<ByteRange>, Sense> {
    disk.check_writable()?;
    let descriptors = list
        .get(HEADER_BYTES..)
        .ok_or(Sense::parameter_list_length())?;
    let stated = usize::from(be16(list, 2));
    let present = descriptors.get(..stated).unwrap_or(descriptors);
    let descriptors = present.chunks_exact(DESCRIPTOR_BYTES);
    if u32::try_from(descriptors.len()).is_ok_and(|count| count <= UNMAP_DESCRIPTORS_MAX) {
        ranges(descriptors, disk)
    } else {
        Err(Sense::invalid_field(Field::list(2)))
    }
}

fn ranges<'a>(
    descriptors: impl ExactSizeIterator<Item = &'a [u8]>,
    disk: &Disk,
) -> Result<Vec<ByteRange>, Sense> {
    let mut ranges = Vec::with_capacity(descriptors.len());
    let mut blocks_left = UNMAP_BLOCKS_MAX;
    for (number, descriptor) in descriptors.enumerate() {
        let blocks = be32(descriptor, 8);
        let blocks_field = Field::list(HEADER_BYTES + number * DESCRIPTOR_BYTES + 8);
        let too_many = Sense::invalid_field(blocks_field);
        blocks_left = blocks_left.checked_sub(blocks).ok_or(too_many)?;
        ranges.extend(disk.range(be64(descriptor, 0), u64::from(blocks))?);
    }
    Ok(ranges)
}
