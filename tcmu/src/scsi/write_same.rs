//! WRITE SAME: one block over and over, or the range unmapped.
//!
//! cdb -> **write_same** -> disk, limits
//!
//! Source: SBC-3 (WRITE SAME (10) and (16) commands).

use crate::scsi::cdb::{Action, Cdb};
use crate::scsi::disk::{Disk, check_limit};
use crate::scsi::fields::{be16, be32, be64};
use crate::scsi::limits::WRITE_SAME_BLOCKS_MAX;
use crate::scsi::sense::{Field, Sense};
use crate::scsi::transfer::check_protection;

pub(crate) fn write_same_10(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    // RELADR, which is obsolete and has become NDOB of the longer one.
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(1, 0)));
    }
    let blocks = u32::from(be16(cdb, 7));
    write_same(
        cdb[1],
        u64::from(be32(cdb, 2)),
        (blocks, Field::cdb(7)),
        disk,
    )
}

pub(crate) fn write_same_16(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    let blocks = be32(cdb, 10);
    write_same(cdb[1], be64(cdb, 2), (blocks, Field::cdb(10)), disk)
}

fn write_same(
    flags: u8,
    lba: u64,
    (blocks, blocks_field): (u32, Field),
    disk: &Disk,
) -> Result<Action, Sense> {
    check_protection(flags)?;
    // ANCHOR: blocks are not kept for a range that is unmapped.
    if flags & 0x10 != 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(1, 4)));
    }
    // PBDATA, LBDATA: the address is not written into the blocks.
    if flags & 0x06 != 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(1, 2)));
    }
    check_limit(blocks, WRITE_SAME_BLOCKS_MAX, blocks_field)?;
    let range = disk.range(lba, u64::from(blocks))?;
    disk.check_writable()?;
    // No blocks do not mean all of them: WSNZ.
    let range = range.ok_or(Sense::invalid_field(blocks_field))?;
    Ok(Action::WriteSame {
        range,
        no_data_out: flags & 0x01 != 0,
    })
}
