//! Directories: names to inodes.
//!
//! Hashed ones are read like all others: to who knows no hashes, the blocks of the hash tree hold
//! one long unused entry.
//!
//! Source: Linux, Documentation/filesystems/ext4 (directory.rst).

use std::collections::HashMap;

use super::OP;
use super::shape::{u16_at, u32_at};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of an entry before its name.
const ENTRY_BYTES: usize = 8;

/// Most entries of one directory.
const ENTRIES_MAX: usize = 200_000;

/// The entries of one directory.
#[derive(Debug, Default)]
pub(super) struct Directory {
    inodes: HashMap<Box<[u8]>, u32>,
    /// In the order of the directory; without itself and its parent.
    children: Vec<u32>,
}

impl Directory {
    pub(super) fn len(&self) -> usize {
        self.inodes.len().max(self.children.len())
    }

    /// The inode of that name.
    pub(super) fn get(&self, name: &[u8]) -> Option<u32> {
        self.inodes.get(name).copied()
    }

    pub(super) fn children(&self) -> impl Iterator<Item = u32> {
        self.children.iter().copied()
    }

    /// Adds the entries in one block.
    pub(super) fn read_block(&mut self, block: &[u8]) -> Result<()> {
        let mut rest = block;
        while rest.len() >= ENTRY_BYTES {
            let (len, entry) =
                entry(rest).ok_or_else(|| Error::corrupt(OP, "broken directory entry"))?;
            if let Some((name, inode)) = entry {
                self.add(name, inode)?;
            }
            rest = rest.get(len..).unwrap_or_default();
        }
        Ok(())
    }

    fn add(&mut self, name: &[u8], inode: u32) -> Result<()> {
        // One name may stand there a million times.
        if self.inodes.len().max(self.children.len()) >= ENTRIES_MAX {
            let detail = format!("a directory of more than {ENTRIES_MAX} entries");
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
        if !matches!(name, b"." | b"..") {
            self.children.push(inode);
        }
        self.inodes.insert(name.into(), inode);
        Ok(())
    }
}

/// A name and its inode.
type Entry<'a> = (&'a [u8], u32);

/// The length of the first entry, and what it holds unless it is unused.
fn entry(bytes: &[u8]) -> Option<(usize, Option<Entry<'_>>)> {
    let inode = u32_at(bytes, 0)?;
    let len = match u16_at(bytes, 4)? {
        // 64 KiB do not fit into 16 bits.
        0 | u16::MAX => bytes.len(),
        len => usize::from(len),
    };
    if len < ENTRY_BYTES || len > bytes.len() {
        return None;
    }
    let name_len = usize::from(*bytes.get(6)?);
    if inode == 0 || name_len == 0 {
        return Some((len, None));
    }
    let name = bytes.get(ENTRY_BYTES..len)?.get(..name_len)?;
    Some((len, Some((name, inode))))
}
