//! START STOP UNIT and PREVENT ALLOW MEDIUM REMOVAL.
//!
//! cdb -> **start_stop**
//!
//! Source: SBC-3 (START STOP UNIT command, PREVENT ALLOW MEDIUM REMOVAL command).

use crate::scsi::cdb::{Action, Cdb};
use crate::scsi::disk::Disk;
use crate::scsi::sense::{Field, Sense};

/// The disk runs for as long as it is there: starting it is nothing. Stopping is refused, for a
/// stopped disk must not be ready afterwards; so are power conditions, and load and eject of a
/// medium that cannot be removed.
pub(crate) fn start_stop_unit(cdb: &Cdb, _disk: &Disk) -> Result<Action, Sense> {
    let flags = cdb[4];
    if flags & 0xf0 != 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(4, 7)));
    }
    if flags & 0x02 != 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(4, 1)));
    }
    if flags & 0x01 == 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(4, 0)));
    }
    Ok(Action::Done)
}

/// The medium cannot be removed, prevented or not.
#[expect(clippy::unnecessary_wraps, reason = "as every command")]
pub(crate) fn prevent_allow(_cdb: &Cdb, _disk: &Disk) -> Result<Action, Sense> {
    Ok(Action::Done)
}
