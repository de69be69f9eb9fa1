//! How a request went, as the driver is told.
//!
//! ring -> descriptor chain -> request -> image -> **status**
//!
//! Source: VirtIO 1.2 section 5.2.6 (`VIRTIO_BLK_S_*`).

use layers::ErrorKind;

/// The status byte of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Failed.
    IoError,
    /// This disk cannot do that.
    Unsupported,
}

impl Status {
    /// The byte the driver reads.
    #[must_use]
    pub fn to_byte(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::IoError => 1,
            Self::Unsupported => 2,
        }
    }
}

impl From<ErrorKind> for Status {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Unsupported => Self::Unsupported,
            // There is no status for a full host, and a write to a read-only disk has this one by
            // the standard. A driver cannot act on the difference between the others.
            _ => Self::IoError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_done_at_all_is_unsupported() {
        assert_eq!(Status::from(ErrorKind::Unsupported).to_byte(), 2);
        for kind in [
            ErrorKind::Io,
            ErrorKind::NotFound,
            ErrorKind::Corrupt,
            ErrorKind::OutOfRange,
            ErrorKind::Config,
            ErrorKind::NoSpace,
            ErrorKind::ReadOnly,
            ErrorKind::Busy,
        ] {
            assert_eq!(Status::from(kind).to_byte(), 1, "{kind:?}");
        }
    }
}
