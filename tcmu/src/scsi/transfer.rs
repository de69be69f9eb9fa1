//! READ, WRITE, VERIFY and SYNCHRONIZE CACHE.
//!
//! cdb -> **transfer** -> disk, limits
//!
//! Source: SBC-3 (the commands of these names).

use crate::scsi::cdb::{Action, Cdb};
use crate::scsi::disk::{Disk, check_limit};
use crate::scsi::fields::{be16, be32, be64};
use crate::scsi::sense::{Field, Sense};

/// What a command block says of the blocks it is about.
#[derive(Debug, Clone, Copy)]
struct Transfer {
    lba: u64,
    blocks: u32,
    /// The field of `blocks`.
    blocks_field: Field,
    /// Byte 1 of the longer command blocks: protection, DPO, FUA.
    flags: u8,
}

impl Transfer {
    fn of_6(cdb: &Cdb) -> Self {
        let blocks = match cdb[4] {
            0 => 256,
            blocks => u32::from(blocks),
        };
        Self {
            lba: u64::from(be32(cdb, 0) & 0x1f_ffff),
            blocks,
            blocks_field: Field::cdb(4),
            flags: 0,
        }
    }

    fn of_10(cdb: &Cdb) -> Self {
        Self {
            lba: u64::from(be32(cdb, 2)),
            blocks: u32::from(be16(cdb, 7)),
            blocks_field: Field::cdb(7),
            flags: cdb[1],
        }
    }

    fn of_12(cdb: &Cdb) -> Self {
        Self {
            lba: u64::from(be32(cdb, 2)),
            blocks: be32(cdb, 6),
            blocks_field: Field::cdb(6),
            flags: cdb[1],
        }
    }

    fn of_16(cdb: &Cdb) -> Self {
        Self {
            lba: be64(cdb, 2),
            blocks: be32(cdb, 10),
            blocks_field: Field::cdb(10),
            flags: cdb[1],
        }
    }

    /// RDPROTECT, WRPROTECT, VRPROTECT: there is no protection information. The limit is that of
    /// VPD page B0.
    fn check(&self, disk: &Disk) -> Result<(), Sense> {
        check_protection(self.flags)?;
        check_limit(self.blocks, disk.transfer_limit(), self.blocks_field)
    }

    fn read(self, disk: &Disk) -> Result<Action, Sense> {
        self.check(disk)?;
        let range = disk.range(self.lba, u64::from(self.blocks))?;
        Ok(range.map_or(Action::Done, Action::Read))
    }

    fn write(self, disk: &Disk) -> Result<Action, Sense> {
        self.check(disk)?;
        let range = disk.range(self.lba, u64::from(self.blocks))?;
        disk.check_writable()?;
        let fua = self.flags & 0x08 != 0;
        Ok(range.map_or(Action::Done, |range| Action::Write { range, fua }))
    }

    fn verify(self, disk: &Disk) -> Result<Action, Sense> {
        self.check(disk)?;
        // BYTCHK: nothing is compared with a data-out.
        if self.flags & 0x06 != 0 {
            return Err(Sense::invalid_field(Field::cdb_bit(1, 2)));
        }
        let range = disk.range(self.lba, u64::from(self.blocks))?;
        Ok(range.map_or(Action::Done, Action::Verify))
    }

    /// No blocks are all to the end. The whole image is flushed, whatever the range.
    fn synchronize_cache(self, disk: &Disk) -> Result<Action, Sense> {
        disk.range(self.lba, u64::from(self.blocks))?;
        match disk.is_writable {
            // Also with IMMED: the command may complete before, but need not.
            true => Ok(Action::Flush),
            false => Ok(Action::Done),
        }
    }
}

/// # Errors
/// 24/00 for protection information, of which there is none; `flags` is byte 1.
pub(crate) fn check_protection(flags: u8) -> Result<(), Sense> {
    if flags & 0xe0 == 0 {
        Ok(())
    } else {
        Err(Sense::invalid_field(Field::cdb_bit(1, 7)))
    }
}

pub(crate) fn read_6(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_6(cdb).read(disk)
}

pub(crate) fn read_10(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_10(cdb).read(disk)
}

pub(crate) fn read_12(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_12(cdb).read(disk)
}

pub(crate) fn read_16(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_16(cdb).read(disk)
}

pub(crate) fn write_6(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_6(cdb).write(disk)
}

pub(crate) fn write_10(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_10(cdb).write(disk)
}

pub(crate) fn write_12(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_12(cdb).write(disk)
}

pub(crate) fn write_16(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_16(cdb).write(disk)
}

pub(crate) fn verify_10(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_10(cdb).verify(disk)
}

pub(crate) fn verify_16(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_16(cdb).verify(disk)
}

pub(crate) fn synchronize_cache_10(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_10(cdb).synchronize_cache(disk)
}

pub(crate) fn synchronize_cache_16(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    Transfer::of_16(cdb).synchronize_cache(disk)
}
