//! Finds out where on a disk the files of an ext4 file system lie. Never writes.
//!
//! file_list -> **ext4** -> a disk
//!
//! Understands what mke2fs makes by default since ext2: extents and block maps, 32- and 64-bit
//! group descriptors, hashed directories (read from end to end), symbolic links. Not: meta_bg,
//! data inside inodes, encrypted names. A journal that was not replayed is not looked at; at worst
//! something else is prefetched.
//!
//! Invariants
//! - every block number is checked against the size of the file system before it is used.
//! - the bytes read and the bytes looked at are bounded, whatever the file system says; so no
//!   loop in it is followed for ever.
//!
//! Source: Linux, Documentation/filesystems/ext4.

mod directory;
mod map;
mod shape;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use directory::Directory;
use shape::{Inode, Kind, Shape, u32_at};

use crate::error::{Error, ErrorKind, Result};
use crate::read_at::ReadAt;

const OP: &str = "read ext4 file system";

/// The root directory.
const ROOT: u32 = 2;

/// Symbolic links that one path may lead through.
const LINKS_MAX: u32 = 16;

/// Longest target of a symbolic link.
const LINK_BYTES_MAX: u64 = 4096;

/// Most bytes that are read from the disk.
const READ_BYTES_MAX: u64 = 256 << 20;

/// Most bytes that are looked at, those that are kept in memory included.
const LOOK_BYTES_MAX: u64 = 1 << 30;

/// Most bytes of blocks that are kept.
const KEPT_BYTES_MAX: u64 = 8 << 20;

/// Most directory entries that are kept.
const KEPT_ENTRIES_MAX: usize = 200_000;

/// Most directories and files below one directory.
const TREE_NODES_MAX: usize = 200_000;

/// An open file system.
#[derive(Debug)]
pub struct Ext4<'a> {
    disk: &'a dyn ReadAt,
    shape: Shape,
    kept: RefCell<Kept>,
}

/// What was read already, and how much that was.
#[derive(Debug, Default)]
struct Kept {
    blocks: HashMap<u64, Rc<[u8]>>,
    directories: HashMap<u32, Rc<Directory>>,
    entries: usize,
    read_bytes: u64,
    look_bytes: u64,
}

impl<'a> Ext4<'a> {
    /// Opens the file system that begins at byte 0 of `disk`. Blocks, as do all calls.
    ///
    /// # Errors
    /// `Unsupported` when it is none, or one with features that this does not know; `Corrupt`;
    /// those of `disk`.
    pub fn open(disk: &'a dyn ReadAt) -> Result<Self> {
        Ok(Self {
            shape: Shape::read(disk)?,
            disk,
            kept: RefCell::default(),
        })
    }

    /// The inode that `path` leads to, symbolic links followed; `None` when there is none.
    ///
    /// # Errors
    /// `Corrupt`; `Unsupported` beyond the bounds; those of the disk.
    pub fn find(&self, path: &str) -> Result<Option<u32>> {
        self.walk(ROOT, path.as_bytes(), &mut 0)
    }

    /// The regular files below the directory `inode`; `inode` itself if it is one. In the order of
    /// the directories.
    ///
    /// # Errors
    /// As [`Ext4::find`].
    pub fn files_below(&self, inode: u32) -> Result<Vec<u32>> {
        let (mut files, mut seen) = (Vec::new(), HashSet::from([inode]));
        let mut left = vec![inode];
        while let Some(number) = left.pop() {
            match self.inode(number)?.kind {
                Kind::File => files.push(number),
                Kind::Directory => {
                    let directory = self.directory(number)?;
                    let new = directory.children().filter(|child| seen.insert(*child));
                    let mut new: Vec<_> = new.collect();
                    new.reverse();
                    left.append(&mut new);
                }
                Kind::Link | Kind::Other => {}
            }
            if seen.len() > TREE_NODES_MAX {
                let detail = format!("more than {TREE_NODES_MAX} files below one directory");
                return Err(Error::new(ErrorKind::Unsupported, OP, detail));
            }
        }
        Ok(files)
    }

    /// Where the bytes of a regular file lie on the disk, in whole blocks, in the order of the
    /// file. Nothing for what is no file, and for holes.
    ///
    /// # Errors
    /// As [`Ext4::find`].
    pub fn ranges(&self, inode: u32) -> Result<Vec<Range<u64>>> {
        let inode = self.inode(inode)?;
        if inode.kind != Kind::File || inode.is_inline() {
            return Ok(Vec::new());
        }
        let bytes = u64::from(self.shape.block_bytes);
        let runs = self.runs(&inode)?.into_iter();
        // Block numbers were checked: these are bytes of the disk.
        let range = |run: map::Run| run.start * bytes..(run.start + run.blocks) * bytes;
        Ok(runs.map(range).collect())
    }

    /// Follows `path` from the directory `from`.
    fn walk(&self, from: u32, path: &[u8], links: &mut u32) -> Result<Option<u32>> {
        let mut current = match path.first() {
            Some(b'/') => ROOT,
            _ => from,
        };
        let names = path.split(|byte| *byte == b'/');
        for name in names.filter(|name| !matches!(*name, b"" | b".")) {
            if self.inode(current)?.kind != Kind::Directory {
                return Ok(None);
            }
            let Some(child) = self.directory(current)?.get(name) else {
                return Ok(None);
            };
            let inode = self.inode(child)?;
            if inode.kind != Kind::Link {
                current = child;
                continue;
            }
            *links += 1;
            if *links > LINKS_MAX {
                return Ok(None);
            }
            let target = self.link_target(&inode)?;
            match self.walk(current, &target, links)? {
                Some(target) => current = target,
                None => return Ok(None),
            }
        }
        Ok(Some(current))
    }

    fn link_target(&self, inode: &Inode) -> Result<Vec<u8>> {
        let size = inode.size;
        if size > LINK_BYTES_MAX {
            return Err(Error::corrupt(OP, format!("link of {size} bytes")));
        }
        let mut target = match inode.is_inline_link() {
            true => inode.map.to_vec(),
            false => match self.runs(inode)?.first() {
                Some(run) => self.block(run.start)?.to_vec(),
                None => Vec::new(),
            },
        };
        target.truncate(usize::try_from(size).unwrap_or(0));
        Ok(target)
    }

    /// The entries of the directory `number`.
    fn directory(&self, number: u32) -> Result<Rc<Directory>> {
        if let Some(known) = self.kept.borrow().directories.get(&number) {
            return Ok(Rc::clone(known));
        }
        let inode = self.inode(number)?;
        if inode.is_inline() || inode.is_encrypted() {
            let detail = "a directory inside its inode, or with encrypted names";
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
        let mut directory = Directory::default();
        for run in self.runs(&inode)? {
            for block in run.start..run.start + run.blocks {
                directory.read_block(&self.block(block)?)?;
            }
        }
        let directory = Rc::new(directory);
        let mut kept = self.kept.borrow_mut();
        kept.entries += directory.len();
        if kept.entries > KEPT_ENTRIES_MAX {
            kept.directories.clear();
            kept.entries = directory.len();
        }
        kept.directories.insert(number, Rc::clone(&directory));
        Ok(directory)
    }

    fn inode(&self, number: u32) -> Result<Inode> {
        let corrupt = || Error::corrupt(OP, format!("no inode {number}"));
        let place = self.shape.place_of(number).ok_or_else(corrupt)?;
        let descriptor = self.block(place.descriptor_block)?;
        let low = u32_at(&descriptor, place.descriptor + 8).ok_or_else(corrupt)?;
        let high = match self.shape.is_64_bit {
            true => u32_at(&descriptor, place.descriptor + 0x28).ok_or_else(corrupt)?,
            false => 0,
        };
        let table = u64::from(high) << 32 | u64::from(low);
        let at = place.in_table;
        let block = table
            .checked_add(at / u64::from(self.shape.block_bytes))
            .ok_or_else(corrupt)?;
        let start = usize::try_from(at % u64::from(self.shape.block_bytes)).unwrap_or(usize::MAX);
        let block = self.block(block)?;
        let bytes = block.get(start..).ok_or_else(corrupt)?;
        Inode::decode(bytes).ok_or_else(corrupt)
    }

    /// Block `number` of the file system.
    fn block(&self, number: u64) -> Result<Rc<[u8]>> {
        let bytes = u64::from(self.shape.block_bytes);
        let mut kept = self.kept.borrow_mut();
        kept.look_bytes += bytes;
        if kept.look_bytes > LOOK_BYTES_MAX {
            let detail = "too much to look at: the file system is huge, or runs in circles";
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
        if let Some(block) = kept.blocks.get(&number) {
            return Ok(Rc::clone(block));
        }
        if number >= self.shape.blocks {
            let detail = format!("block {number} of {}", self.shape.blocks);
            return Err(Error::corrupt(OP, detail));
        }
        kept.read_bytes += bytes;
        if kept.read_bytes > READ_BYTES_MAX {
            let detail = format!("more than {READ_BYTES_MAX} bytes of metadata");
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
        let mut block = vec![0; usize::try_from(bytes).unwrap_or(0)];
        self.disk.read_exact_at(number * bytes, &mut block)?;
        let block: Rc<[u8]> = block.into();
        if kept.blocks.len() as u64 * bytes >= KEPT_BYTES_MAX {
            kept.blocks.clear();
        }
        kept.blocks.insert(number, Rc::clone(&block));
        Ok(block)
    }
}
