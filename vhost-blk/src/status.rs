//! How a request went, as the driver is told.
//!
//! ring -> descriptor chain -> request -> image -> **status**
//!
//! What the engine refuses is an I/O error whatever its kind, `Unsupported` included: a driver that
//! is told "unsupported" gives the whole feature up. Only a request that this front end does not
//! know is that. There is no status for a full host, and a write to a read-only disk is an I/O error
//! by the standard.
//!
//! Source: VirtIO 1.2 section 5.2.6 (`VIRTIO_BLK_S_*`).

/// The status byte of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Failed.
    IoError,
    /// No such request, or not with these flags.
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
