//! READ CAPACITY.
//!
//! cdb -> **capacity** -> disk, reply
//!
//! Source: SBC-3 (READ CAPACITY (10) and (16) commands).

use crate::scsi::cdb::{Action, Cdb};
use crate::scsi::disk::Disk;
use crate::scsi::fields::{be32, be64};
use crate::scsi::limits::{BLOCK_BYTES, PHYSICAL_BLOCK_EXPONENT};
use crate::scsi::reply::Reply;
use crate::scsi::sense::{Field, Sense, SenseKey};

/// The one service action of operation code 9Eh that is known.
const READ_CAPACITY_16: u8 = 0x10;

/// Last block and bytes of a block.
pub(crate) fn capacity_10(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    let is_partial = cdb[8] & 0x01 != 0;
    if !is_partial && be32(cdb, 2) != 0 {
        return Err(Sense::invalid_field(Field::cdb(2)));
    }
    // All ones tell the initiator to ask with READ CAPACITY(16).
    let last = u32::try_from(last_block(disk)?).unwrap_or(u32::MAX);
    let mut bytes = last.to_be_bytes().to_vec();
    bytes.extend(block_bytes());
    Ok(Action::Reply(Reply { bytes }))
}

/// SERVICE ACTION IN(16).
pub(crate) fn service_action_in_16(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    if cdb[1] & 0x1f != READ_CAPACITY_16 {
        return Err(Sense::invalid_field(Field::cdb_bit(1, 4)));
    }
    let is_partial = cdb[14] & 0x01 != 0;
    if !is_partial && be64(cdb, 2) != 0 {
        return Err(Sense::invalid_field(Field::cdb(2)));
    }
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&last_block(disk)?.to_be_bytes());
    bytes[8..12].copy_from_slice(&block_bytes());
    bytes[13] = PHYSICAL_BLOCK_EXPONENT;
    if disk.is_writable {
        bytes[14] = 0xc0; // LBPME, LBPRZ: blocks can be unmapped and then read as zeros
    }
    Ok(Action::Reply(Reply::cut(bytes.to_vec(), be32(cdb, 10))))
}

fn block_bytes() -> [u8; 4] {
    u32::try_from(BLOCK_BYTES).unwrap_or(0).to_be_bytes()
}

/// # Errors
/// MEDIUM NOT PRESENT for a disk without blocks, which has no last one.
fn last_block(disk: &Disk) -> Result<u64, Sense> {
    let no_medium = Sense::new(SenseKey::NotReady, 0x3a, 0x00);
    disk.blocks.checked_sub(1).ok_or(no_medium)
}
