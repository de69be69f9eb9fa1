//! Engine errors as sense data: the one table.
//!
//! sense of the device -> **engine_error** -> sense
//!
//! Linux gives up at once on a MEDIUM ERROR of a read (11h), tries a failed write (0Ch) a few times
//! more, and makes ENOSPC of 27h/07h.

use layers::{Error, ErrorKind};

use crate::scsi::sense::{Sense, SenseKey};

impl Sense {
    /// What a failed read of the image is told as, once the daemon has given up on it.
    #[must_use]
    pub fn of_read(error: &Error) -> Self {
        match error.kind() {
            // Ranges are checked before the image is asked; only an image that changed its size
            // can say so. Which block it was is not known.
            ErrorKind::OutOfRange => Self::new(SenseKey::IllegalRequest, 0x21, 0x00),
            // Whatever the reason, the data is not to be had. Not HARDWARE ERROR or NOT READY,
            // which an initiator may answer with retries of its own.
            _ => Self::read_error(),
        }
    }

    /// What a failed write, unmapping or flush of the image is told as.
    #[must_use]
    pub fn of_write(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::OutOfRange => Self::new(SenseKey::IllegalRequest, 0x21, 0x00),
            // SPACE ALLOCATION FAILED WRITE PROTECT: the thin disk's host has no room. What was
            // written before is not harmed, and writes are taken again when there is room.
            ErrorKind::NoSpace => Self::new(SenseKey::DataProtect, 0x27, 0x07),
            ErrorKind::ReadOnly => Self::write_protected(),
            _ => Self::write_error(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use layers::Remote;

    /// Every kind with what reads and writes make of it.
    const TABLE: &[(ErrorKind, &str, &str)] = &[
        (ErrorKind::Io, "03/11/00", "03/0c/00"),
        (ErrorKind::NotFound, "03/11/00", "03/0c/00"),
        (ErrorKind::Corrupt, "03/11/00", "03/0c/00"),
        (ErrorKind::Unsupported, "03/11/00", "03/0c/00"),
        (ErrorKind::OutOfRange, "05/21/00", "05/21/00"),
        (ErrorKind::Config, "03/11/00", "03/0c/00"),
        (ErrorKind::NoSpace, "03/11/00", "07/27/07"),
        (ErrorKind::ReadOnly, "03/11/00", "07/27/00"),
        (ErrorKind::Busy, "03/11/00", "03/0c/00"),
        (ErrorKind::Exists, "03/11/00", "03/0c/00"),
        (ErrorKind::Remote(Remote::Forbidden), "03/11/00", "03/0c/00"),
        (ErrorKind::Remote(Remote::TimedOut), "03/11/00", "03/0c/00"),
    ];

    #[test]
    fn every_kind_of_engine_error_has_its_sense() {
        for &(kind, read, write) in TABLE {
            let error = Error::new(kind, "test", "");
            assert_eq!(Sense::of_read(&error).to_string(), read, "read: {kind:?}");
            assert_eq!(
                Sense::of_write(&error).to_string(),
                write,
                "write: {kind:?}"
            );
        }
    }

    #[test]
    fn no_block_is_named_that_is_not_known() {
        for &(kind, ..) in TABLE {
            let error = Error::new(kind, "test", "").at(512);
            assert_eq!(Sense::of_read(&error).information, None);
            assert_eq!(Sense::of_write(&error).information, None);
        }
    }
}
