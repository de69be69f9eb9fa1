//! Which blocks of the disk a file is made of: trees of extents, and the block maps of ext2.
//!
//! Source: Linux, Documentation/filesystems/ext4 (ifork.rst).

use super::shape::{Inode, u16_at, u32_at};
use super::{Ext4, OP};
use crate::error::{Error, ErrorKind, Result};

const EXTENT_MAGIC: u16 = 0xF30A;

/// Bytes of the header and of every entry of a node.
const NODE_BYTES: usize = 12;

/// Deepest tree that a file can need.
const DEPTH_MAX: u16 = 5;

/// A longer extent holds no data yet and is that much shorter.
const EXTENT_BLOCKS_MAX: u16 = 32768;

/// Blocks that a map names itself, before it names blocks of a map.
const DIRECT: usize = 12;

/// Most runs of one file.
const RUNS_MAX: usize = 1 << 20;

/// Blocks that follow one another, in the file and on the disk, where they all lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First block on the disk.
    pub(super) start: u64,
    /// How many; not 0.
    pub(super) blocks: u64,
}

/// The runs of one file, in its order.
struct Runs {
    runs: Vec<Run>,
    /// Blocks of the file.
    file_blocks: u64,
    /// Blocks of the file system.
    disk_blocks: u64,
}

impl Ext4<'_> {
    /// The blocks of `inode` that hold data, inside its size.
    pub(super) fn runs(&self, inode: &Inode) -> Result<Vec<Run>> {
        let mut runs = Runs {
            runs: Vec::new(),
            file_blocks: inode.size.div_ceil(self.shape.block_bytes.into()),
            disk_blocks: self.shape.blocks,
        };
        if inode.has_extents() {
            self.extents(&inode.map, None, &mut runs)?;
        } else {
            self.block_map(inode, &mut runs)?;
        }
        Ok(runs.runs)
    }

    /// Adds what is below one node. `depth` is what its parent says.
    fn extents(&self, node: &[u8], depth: Option<u16>, runs: &mut Runs) -> Result<()> {
        let corrupt = || Error::corrupt(OP, "broken tree of extents");
        let header = |at| u16_at(node, at).ok_or_else(corrupt);
        let (entries, own_depth) = (header(2)?, header(6)?);
        let is_expected = depth.is_none_or(|depth| own_depth == depth) && own_depth <= DEPTH_MAX;
        if header(0)? != EXTENT_MAGIC || !is_expected {
            return Err(corrupt());
        }
        let entries = (1..=usize::from(entries)).map(|number| {
            node.get(number * NODE_BYTES..)
                .and_then(<[u8]>::first_chunk::<NODE_BYTES>)
        });
        for entry in entries {
            let entry = entry.ok_or_else(corrupt)?;
            let number = |at| u32_at(entry, at).map(u64::from).ok_or_else(corrupt);
            let half = |at| u16_at(entry, at).ok_or_else(corrupt);
            if let Some(depth) = own_depth.checked_sub(1) {
                let child = number(4)? | u64::from(half(8)?) << 32;
                self.extents(&self.block(child)?, Some(depth), runs)?;
            } else {
                let (blocks, start) = (half(4)?, number(8)? | u64::from(half(6)?) << 32);
                if blocks <= EXTENT_BLOCKS_MAX {
                    runs.add(number(0)?, start, blocks.into())?;
                }
            }
        }
        Ok(())
    }

    fn block_map(&self, inode: &Inode, runs: &mut Runs) -> Result<()> {
        let mut logical = 0;
        for (number, pointer) in pointers(&inode.map).enumerate() {
            let level = u32::try_from(number.saturating_sub(DIRECT - 1)).unwrap_or(0);
            self.mapped(pointer, level, &mut logical, runs)?;
        }
        Ok(())
    }

    /// Adds what `pointer` stands for: a block, or, at a higher level, a block of pointers.
    fn mapped(&self, pointer: u32, level: u32, logical: &mut u64, runs: &mut Runs) -> Result<()> {
        if *logical >= runs.file_blocks {
            return Ok(());
        }
        let per_block = u64::from(self.shape.block_bytes / 4);
        if pointer == 0 {
            *logical += per_block.pow(level);
        } else if let Some(below) = level.checked_sub(1) {
            for pointer in pointers(&self.block(pointer.into())?) {
                self.mapped(pointer, below, logical, runs)?;
            }
        } else {
            runs.add(*logical, pointer.into(), 1)?;
            *logical += 1;
        }
        Ok(())
    }
}

fn pointers(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|bytes| u32::from_le_bytes(*bytes))
}

impl Runs {
    /// Adds blocks of the file from `logical` on, as far as the file goes.
    fn add(&mut self, logical: u64, start: u64, blocks: u64) -> Result<()> {
        let blocks = blocks.min(self.file_blocks.saturating_sub(logical));
        if blocks == 0 {
            return Ok(());
        }
        if start
            .checked_add(blocks)
            .is_none_or(|end| end > self.disk_blocks)
        {
            let detail = format!("{blocks} blocks from block {start} of {}", self.disk_blocks);
            return Err(Error::corrupt(OP, detail));
        }
        if let Some(last) = self.runs.last_mut()
            && last.start + last.blocks == start
        {
            last.blocks += blocks;
            return Ok(());
        }
        if self.runs.len() >= RUNS_MAX {
            let detail = format!("a file in more than {RUNS_MAX} pieces");
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
        self.runs.push(Run { start, blocks });
        Ok(())
    }
}
