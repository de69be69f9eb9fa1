//! What one descriptor chain asks of the disk.
//!
//! ring -> descriptor chain -> **request** -> image
//!
//! Source: VirtIO 1.2 section 5.2.6 (block device operation).
//! Invariants
//! - reads and writes are inside the disk, a multiple of a sector, and at most
//!   [`REQUEST_BYTES_MAX`] long.
//! - nothing that changes the disk gets through to one that is read-only.
//! - after [`Request::parse`] the chain's segments are the data alone.

use layers::limits::SECTOR_BYTES;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
};
use vm_memory::GuestAddress;

use crate::descriptor_chain::Chain;
use crate::disk::Disk;
use crate::guest_memory::GuestMemory;
use crate::segment_cursor::SegmentCursor;
use crate::status::Status;
use crate::zero_ranges::{RANGE_BYTES, RANGES_MAX, ZeroKind, ZeroRange, parse_ranges};

/// Most bytes of one read or write. Linux asks for 1280 KiB at most unless told otherwise.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// `type`, `reserved`, `sector`.
const HEADER_BYTES: usize = 16;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Fill the writable segments with the disk's bytes.
    Read(Extent),
    /// Put the bytes of the readable segments on the disk.
    Write(Extent),
    /// Make the ranges read as zeros.
    Zero,
    /// Make what was written before safe from a power cut.
    Flush,
    /// Write the serial.
    GetId,
    /// Nothing but the status.
    Refuse(Status),
}

/// Whole sectors of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Byte offset on the disk.
    pub offset: u64,
    /// Bytes, at most [`REQUEST_BYTES_MAX`].
    pub len: usize,
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
    /// Takes header and status off `chain`, and the ranges of [`Operation::Zero`] into `ranges`.
    ///
    /// `None` when the chain has no writable byte: then there is no way to say anything to the
    /// driver but that the chain was used.
    pub fn parse(
        chain: &mut Chain,
        memory: &GuestMemory,
        disk: &Disk,
        ranges: &mut Vec<ZeroRange>,
    ) -> Option<Self> {
        let status = chain.take_last_writable()?;
        let operation = match chain.take_readable_front::<HEADER_BYTES>(memory) {
            Some(header) => parse_header(header, chain, memory, disk, ranges),
            None => Err(Status::IoError),
        };
        Some(Self {
            operation: operation.unwrap_or_else(Operation::Refuse),
            status,
        })
    }
}

fn parse_header(
    header: [u8; HEADER_BYTES],
    chain: &Chain,
    memory: &GuestMemory,
    disk: &Disk,
    ranges: &mut Vec<ZeroRange>,
) -> Result<Operation, Status> {
    let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    let extent = |bytes| extent(sector, bytes, disk.bytes()).ok_or(Status::IoError);
    match u32::from_le_bytes([t0, t1, t2, t3]) {
        VIRTIO_BLK_T_IN => extent(chain.writable_len()).map(Operation::Read),
        VIRTIO_BLK_T_FLUSH => Ok(Operation::Flush),
        VIRTIO_BLK_T_GET_ID => Ok(Operation::GetId),
        VIRTIO_BLK_T_OUT | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
            if !disk.is_writable() =>
        {
            disk.report(format_args!("refused a write: the disk is read-only"));
            Err(Status::IoError)
        }
        VIRTIO_BLK_T_OUT => extent(chain.readable_len()).map(Operation::Write),
        VIRTIO_BLK_T_DISCARD => parse_zero(chain, memory, ZeroKind::Discard, disk, ranges),
        VIRTIO_BLK_T_WRITE_ZEROES => parse_zero(chain, memory, ZeroKind::WriteZeroes, disk, ranges),
        _ => Err(Status::Unsupported),
    }
}

fn extent(sector: u64, bytes: u64, disk_bytes: u64) -> Option<Extent> {
    let offset = sector.checked_mul(SECTOR_BYTES)?;
    let len = usize::try_from(bytes).ok()?;
    let fits = len <= REQUEST_BYTES_MAX
        && bytes.is_multiple_of(SECTOR_BYTES)
        && offset.checked_add(bytes)? <= disk_bytes;
    fits.then_some(Extent { offset, len })
}

fn parse_zero(
    chain: &Chain,
    memory: &GuestMemory,
    kind: ZeroKind,
    disk: &Disk,
    ranges: &mut Vec<ZeroRange>,
) -> Result<Operation, Status> {
    let mut list = [0; RANGES_MAX * RANGE_BYTES];
    let len = usize::try_from(chain.readable_len()).unwrap_or(usize::MAX);
    let list = list.get_mut(..len).ok_or(Status::IoError)?;
    SegmentCursor::new(chain.readable()).read(memory, list)?;
    parse_ranges(list, kind, disk.bytes(), ranges)?;
    Ok(Operation::Zero)
}
