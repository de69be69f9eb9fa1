//! How commands end that do not end well.
//!
//! dispatch, execute -> **sense** -> scsi, ring
//!
//! Source: SPC-4 4.5 (sense data); the table of engine errors is in `scsi`.

use layers::Error;

use crate::disk::Disk;
use crate::ring::Status;
use crate::scsi::{Sense, SenseKey};

impl From<Sense> for Status {
    fn from(sense: Sense) -> Self {
        Self::CheckCondition(sense.to_bytes())
    }
}

/// A read has failed for good.
#[cold]
pub(crate) fn of_read(disk: &Disk, error: &Error) -> Status {
    disk.report(format_args!("{error}"));
    Sense::of_read(error).into()
}

/// A write, discard or flush has failed.
#[cold]
pub(crate) fn of_write(disk: &Disk, error: &Error) -> Status {
    disk.report(format_args!("{error}"));
    Sense::of_write(error).into()
}

/// The command came with less data than it says.
#[cold]
pub(crate) fn short_data(disk: &Disk) -> Status {
    disk.report(format_args!(
        "refused a command with less data than it says"
    ));
    Sense::parameter_list_length().into()
}

/// The image is not open. Not as NOT READY, to which an initiator may answer with retries.
#[cold]
pub(crate) fn not_ready() -> Status {
    Sense::read_error().into()
}

/// The kernel has put something into the ring that is no command: INTERNAL TARGET FAILURE.
#[cold]
pub(crate) fn malformed() -> Status {
    Sense::new(SenseKey::HardwareError, 0x44, 0x00).into()
}
