//! What one descriptor chain asks of the disk.
//!
//! ring -> descriptor chain -> **request** -> image
//!
//! Source: VirtIO 1.2 section 5.2.6 (block device operation).
//! Invariants
//! - a [`Operation::Read`] is inside the disk, a multiple of a sector, and at most
//!   [`REQUEST_BYTES_MAX`] long.
//! - after [`Request::parse`] the chain's writable segments are the data alone.

use layers::ErrorKind;
use layers::limits::SECTOR_BYTES;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::GuestAddress;

use crate::descriptor_chain::Chain;
use crate::guest_memory::GuestMemory;

/// Most bytes of one read. Linux asks for 1280 KiB at most unless told otherwise.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// `type`, `reserved`, `sector`.
const HEADER_BYTES: usize = 16;

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
    /// The byte the driver reads: `VIRTIO_BLK_S_*`.
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
            // A driver cannot act on the difference between the others.
            _ => Self::IoError,
        }
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Fill the data segments with the disk's bytes at `offset`.
    Read {
        /// Byte offset on the disk.
        offset: u64,
        /// Bytes.
        len: usize,
    },
    /// Nothing is ever unwritten on a read-only disk.
    Flush,
    /// Write the serial.
    GetId,
    /// Nothing but the status.
    Refuse(Status),
}

/// One request: what to do and where to say how it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What is to be done.
    pub operation: Operation,
    /// Guest physical address of the status byte.
    pub status: GuestAddress,
}

impl Request {
    /// Takes header and status off `chain`.
    ///
    /// `None` when the chain has no writable byte: then there is no way to say anything to the
    /// driver but that the chain was used.
    pub fn parse(chain: &mut Chain, memory: &GuestMemory, disk_bytes: u64) -> Option<Self> {
        let status = chain.take_last_writable()?;
        let operation = match chain.readable_front::<HEADER_BYTES>(memory) {
            Some(header) => parse_header(header, chain.writable_len(), disk_bytes),
            None => Operation::Refuse(Status::IoError),
        };
        Some(Self { operation, status })
    }
}

fn parse_header(header: [u8; HEADER_BYTES], data_bytes: u64, disk_bytes: u64) -> Operation {
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    match u32::from_le_bytes([t0, t1, t2, t3]) {
        VIRTIO_BLK_T_IN => {
            parse_read(sector, data_bytes, disk_bytes).unwrap_or(Operation::Refuse(Status::IoError))
        }
        VIRTIO_BLK_T_FLUSH => Operation::Flush,
        VIRTIO_BLK_T_GET_ID => Operation::GetId,
        // Known, but the disk is read-only.
        VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES => {
            Operation::Refuse(Status::IoError)
        }
        _ => Operation::Refuse(Status::Unsupported),
    }
}

fn parse_read(sector: u64, data_bytes: u64, disk_bytes: u64) -> Option<Operation> {
    let offset = sector.checked_mul(SECTOR_BYTES)?;
    let len = usize::try_from(data_bytes).ok()?;
    let fits = len <= REQUEST_BYTES_MAX
        && data_bytes.is_multiple_of(SECTOR_BYTES)
        && offset.checked_add(data_bytes)? <= disk_bytes;
    fits.then_some(Operation::Read { offset, len })
}
