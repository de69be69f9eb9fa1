//! The superblock and inodes: bytes to numbers.
//!
//! Source: Linux, Documentation/filesystems/ext4 (super.rst, inodes.rst, group_descr.rst).

use super::OP;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::ReadAt;

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;

const MAGIC: u16 = 0xEF53;
const EROFS_MAGIC: u32 = 0xE0F5_E1E2;

/// Features that change where things are, and that this reader knows or need not know: file types
/// in directories, a journal to replay, extents, 64 bit, multiple-mount protection, flexible
/// groups, large extended attributes, a checksum seed, large directories, data inside inodes,
/// encryption, case folding.
const KNOWN_FEATURES: u32 = 0x2
    | 0x4
    | 0x40
    | 0x80
    | 0x100
    | 0x200
    | 0x400
    | 0x2000
    | 0x4000
    | 0x8000
    | 0x1_0000
    | 0x2_0000;
const FEATURE_64_BIT: u32 = 0x80;

const EXTENTS_FLAG: u32 = 0x8_0000;
const INLINE_FLAG: u32 = 0x1000_0000;
const ENCRYPTED_FLAG: u32 = 0x800;

/// Bytes of the part of an inode that says where its data is.
pub(super) const MAP_BYTES: usize = 60;

/// How the file system is laid out.
#[derive(Debug)]
pub(super) struct Shape {
    /// 1 to 64 KiB.
    pub(super) block_bytes: u32,
    /// All lie on the disk.
    pub(super) blocks: u64,
    pub(super) is_64_bit: bool,
    inodes: u32,
    inodes_per_group: u32,
    inode_bytes: u32,
    descriptor_bytes: u32,
}

/// Where an inode is found.
pub(super) struct Place {
    pub(super) descriptor_block: u64,
    /// Byte in that block.
    pub(super) descriptor: usize,
    /// Byte in the inode table.
    pub(super) in_table: u64,
}

impl Shape {
    pub(super) fn read(disk: &dyn ReadAt) -> Result<Self> {
        let unknown = |detail: String| Error::new(ErrorKind::Unsupported, OP, detail);
        if disk.size() < SUPERBLOCK_AT + SUPERBLOCK_BYTES as u64 {
            return Err(unknown("the disk is too small for one".to_owned()));
        }
        let mut bytes = [0; SUPERBLOCK_BYTES];
        disk.read_exact_at(SUPERBLOCK_AT, &mut bytes)?;
        if u32_at(&bytes, 0) == Some(EROFS_MAGIC) {
            return Err(unknown("the disk holds an erofs file system".to_owned()));
        }
        if u16_at(&bytes, 0x38) != Some(MAGIC) {
            return Err(unknown("the disk holds no ext4 file system".to_owned()));
        }
        let features = u32_at(&bytes, 0x60).unwrap_or(u32::MAX);
        if features & !KNOWN_FEATURES != 0 {
            let detail = format!("unknown features {:#x}", features & !KNOWN_FEATURES);
            return Err(unknown(detail));
        }
        Self::decode(&bytes, features, disk.size())
            .ok_or_else(|| Error::corrupt(OP, "impossible superblock").at(SUPERBLOCK_AT))
    }

    /// `None` for numbers that no file system has.
    fn decode(bytes: &[u8], features: u32, disk_bytes: u64) -> Option<Self> {
        let block_bytes = 1024_u32.checked_shl(u32_at(bytes, 0x18)?)?;
        let is_64_bit = features & FEATURE_64_BIT != 0;
        let blocks_high = if is_64_bit { u32_at(bytes, 0x150)? } else { 0 };
        let blocks = u64::from(blocks_high) << 32 | u64::from(u32_at(bytes, 4)?);
        let is_old = u32_at(bytes, 0x4C)? == 0;
        let shape = Self {
            block_bytes,
            blocks,
            is_64_bit,
            inodes: u32_at(bytes, 0)?,
            inodes_per_group: u32_at(bytes, 0x28)?,
            inode_bytes: if is_old {
                128
            } else {
                u16_at(bytes, 0x58)?.into()
            },
            descriptor_bytes: if is_64_bit {
                u16_at(bytes, 0xFE)?.into()
            } else {
                32
            },
        };
        let least_descriptor = if is_64_bit { 64 } else { 32 };
        let is_possible = (1024..=65536).contains(&block_bytes)
            && blocks.checked_mul(block_bytes.into())? <= disk_bytes
            && shape.inodes_per_group > 0
            && shape.inode_bytes.is_power_of_two()
            && (128..=block_bytes).contains(&shape.inode_bytes)
            && shape.descriptor_bytes.is_power_of_two()
            && (least_descriptor..=1024).contains(&shape.descriptor_bytes);
        is_possible.then_some(shape)
    }

    /// The block behind that of the superblock. The number of the first data block says the same,
    /// but not with blocks of 1 KiB in clusters.
    fn first_descriptor_block(&self) -> u64 {
        SUPERBLOCK_AT / u64::from(self.block_bytes) + 1
    }

    /// `None` for a number that no inode has.
    pub(super) fn place_of(&self, inode: u32) -> Option<Place> {
        let index = inode.checked_sub(1).filter(|_| inode <= self.inodes)?;
        let group = u64::from(index / self.inodes_per_group);
        let per_block = u64::from(self.block_bytes / self.descriptor_bytes);
        let in_block = group % per_block * u64::from(self.descriptor_bytes);
        Some(Place {
            descriptor_block: self.first_descriptor_block() + group / per_block,
            descriptor: usize::try_from(in_block).ok()?,
            in_table: u64::from(index % self.inodes_per_group) * u64::from(self.inode_bytes),
        })
    }
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Link,
    Other,
}

/// An inode, as far as it matters here.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    /// In bytes; not checked.
    pub(super) size: u64,
    pub(super) map: [u8; MAP_BYTES],
    flags: u32,
}

impl Inode {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let kind = match u16_at(bytes, 0)? & 0xF000 {
            0x8000 => Kind::File,
            0x4000 => Kind::Directory,
            0xA000 => Kind::Link,
            _ => Kind::Other,
        };
        let (low, high) = (u32_at(bytes, 4)?, u32_at(bytes, 0x6C)?);
        Some(Self {
            kind,
            size: u64::from(high) << 32 | u64::from(low),
            flags: u32_at(bytes, 0x20)?,
            map: *bytes.get(0x28..)?.first_chunk()?,
        })
    }

    /// Is `map` the root of a tree of extents?
    pub(super) fn has_extents(&self) -> bool {
        self.flags & EXTENTS_FLAG != 0
    }

    /// Does the inode itself hold the data?
    pub(super) fn is_inline(&self) -> bool {
        self.flags & INLINE_FLAG != 0
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.flags & ENCRYPTED_FLAG != 0
    }

    /// Is `map` the target of a link?
    pub(super) fn is_inline_link(&self) -> bool {
        !self.has_extents() && self.size < MAP_BYTES as u64
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u16::from_le_bytes(*bytes))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_le_bytes(*bytes))
}
