//! The ranges that a discard or a write of zeroes names.
//!
//! ring -> descriptor chain -> request -> **zero ranges** -> image
//!
//! Both make the ranges read as zeros. The image decides whether that frees space: an append-only
//! layer has no space to keep for a range that was zeroed without leave to unmap it.
//!
//! Source: VirtIO 1.2 sections 5.2.4, 5.2.6 (`struct virtio_blk_discard_write_zeroes`).
//! Invariants
//! - ranges that were parsed are whole sectors inside the disk, at most [`RANGES_MAX`], each of at
//!   most [`RANGE_SECTORS_MAX`] sectors.

use layers::limits::SECTOR_BYTES;

use crate::status::Status;

/// Most ranges in one request.
pub const RANGES_MAX: usize = 16;

/// Longest range, in sectors: 1 GiB, which is about a hundred index entries of a layer.
pub const RANGE_SECTORS_MAX: u32 = 1 << 21;

/// Discards of whole pages may free space, smaller ones never do.
pub const DISCARD_ALIGNMENT_SECTORS: u32 = 8;

/// Bytes of one range as the driver writes it: `sector`, `num_sectors`, `flags`.
pub const RANGE_BYTES: usize = 16;

/// The one flag there is.
const FLAG_UNMAP: u32 = 1;

/// Whole sectors of a disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZeroRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Which request the ranges belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZeroKind {
    /// Discard: the driver has no use for the content any more.
    Discard,
    /// Write zeroes.
    WriteZeroes,
}

/// Replaces `ranges` by those in `bytes`. Ranges of no sectors are left out.
///
/// # Errors
/// [`Status::Unsupported`] for flags that the request may not have, else [`Status::IoError`] for
/// anything that breaks a limit; then nothing of the request may be done.
pub fn parse_ranges(
    bytes: &[u8],
    kind: ZeroKind,
    disk_bytes: u64,
    ranges: &mut Vec<ZeroRange>,
) -> Result<(), Status> {
    ranges.clear();
    let (entries, rest) = bytes.as_chunks::<RANGE_BYTES>();
    let flags_allowed = match kind {
        ZeroKind::Discard => 0,
        ZeroKind::WriteZeroes => FLAG_UNMAP,
    };
    if entries
        .iter()
        .any(|entry| fields(*entry).2 & !flags_allowed != 0)
    {
        return Err(Status::Unsupported);
    }
    if !rest.is_empty() || entries.is_empty() || entries.len() > RANGES_MAX {
        return Err(Status::IoError);
    }
    for entry in entries {
        let (sector, sectors, _) = fields(*entry);
        let range = range(sector, sectors, disk_bytes).ok_or(Status::IoError)?;
        if range.len > 0 {
            ranges.push(range);
        }
    }
    Ok(())
}

fn fields(entry: [u8; RANGE_BYTES]) -> (u64, u32, u32) {
    let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = entry;
    (
        u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
        u32::from_le_bytes([n0, n1, n2, n3]),
        u32::from_le_bytes(flags),
    )
}

fn range(sector: u64, sectors: u32, disk_bytes: u64) -> Option<ZeroRange> {
    let offset = sector.checked_mul(SECTOR_BYTES)?;
    let len = u64::from(sectors) * SECTOR_BYTES;
    let fits = sectors <= RANGE_SECTORS_MAX && offset.checked_add(len)? <= disk_bytes;
    fits.then_some(ZeroRange { offset, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK_BYTES: u64 = 4 << 30;

    fn entry(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8], kind: ZeroKind) -> Result<Vec<ZeroRange>, Status> {
        let mut ranges = Vec::new();
        parse_ranges(bytes, kind, DISK_BYTES, &mut ranges).map(|()| ranges)
    }

    #[test]
    fn every_range_of_a_list_is_read_and_empty_ones_are_left_out() {
        let bytes = [entry(8, 16, 0), entry(7, 0, 0), entry(1, 1, 0)].concat();
        let expected = [(4096, 8192), (512, 512)].map(|(offset, len)| ZeroRange { offset, len });
        assert_eq!(parse(&bytes, ZeroKind::Discard).unwrap(), expected);
    }

    #[test]
    fn unknown_flags_are_unsupported_and_so_is_a_discard_that_unmaps() {
        use ZeroKind::{Discard, WriteZeroes};
        for (kind, flags, allowed) in [
            (Discard, 0, true),
            (WriteZeroes, 0, true),
            (WriteZeroes, 1, true),
            (Discard, 1, false),
            (Discard, 2, false),
            (WriteZeroes, 3, false),
            (WriteZeroes, 1 << 31, false),
        ] {
            // Also when it stands behind a good one, or its range is bad.
            let bytes = [entry(0, 8, 0), entry(u64::MAX, 8, flags)].concat();
            let expected = if allowed {
                Status::IoError
            } else {
                Status::Unsupported
            };
            assert_eq!(parse(&bytes, kind), Err(expected), "{kind:?} {flags}");
            let result = parse(&entry(0, 8, flags), kind);
            assert_eq!(result.is_ok(), allowed, "{kind:?} {flags}");
        }
    }

    #[test]
    fn limits_are_exact() {
        let sectors = DISK_BYTES / SECTOR_BYTES;
        let list = |count: usize| entry(0, 1, 0).repeat(count);
        for (bytes, allowed) in [
            (entry(0, RANGE_SECTORS_MAX, 0), true),
            (entry(0, RANGE_SECTORS_MAX + 1, 0), false),
            (entry(sectors - 1, 1, 0), true),
            (entry(sectors - 1, 2, 0), false),
            (entry(sectors, 0, 0), true),
            (entry(u64::MAX, 1, 0), false),
            (entry(1 << 55, 1, 0), false),
            (list(RANGES_MAX), true),
            (list(RANGES_MAX + 1), false),
            (Vec::new(), false),
            (vec![0; 15], false),
            (vec![0; 17], false),
        ] {
            let result = parse(&bytes, ZeroKind::WriteZeroes);
            assert_eq!(result.is_ok(), allowed, "{bytes:?}: {result:?}");
        }
    }
}
