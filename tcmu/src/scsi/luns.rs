//! REPORT LUNS. The kernel answers it itself; a passed-through one is answered the same.
//!
//! cdb -> **luns** -> reply
//!
//! Source: SPC-4 (REPORT LUNS command).

use crate::scsi::cdb::{Action, Cdb};
use crate::scsi::disk::Disk;
use crate::scsi::fields::be32;
use crate::scsi::reply::Reply;
use crate::scsi::sense::{Field, Sense};

/// The shortest allocation length that is legal.
const ALLOCATION_BYTES_MIN: u32 = 16;

/// Logical unit 0, and no well known ones.
pub(crate) fn report_luns(cdb: &Cdb, _disk: &Disk) -> Result<Action, Sense> {
    let luns: u8 = match cdb[2] {
        0x00 | 0x02 => 1,
        0x01 => 0,
        _ => return Err(Sense::invalid_field(Field::cdb(2))),
    };
    let allocation_len = be32(cdb, 6);
    if allocation_len < ALLOCATION_BYTES_MIN {
        return Err(Sense::invalid_field(Field::cdb(6)));
    }
    let list_bytes = luns * 8;
    let mut bytes = vec![0, 0, 0, list_bytes, 0, 0, 0, 0];
    bytes.resize(bytes.len() + usize::from(list_bytes), 0);
    Ok(Action::Reply(Reply::cut(bytes, allocation_len)))
}
