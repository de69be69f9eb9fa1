//! Lists of files to prefetch.
//!
//! prefetch -> **file list** -> ext4, lsmt
//!
//! One path on each line. One that ends in `/` or `*` stands for all files below that directory.
//! A line that is no path, such as a comment, is left out.
//!
//! Source: format reference 4.6.

use std::ops::Range;
use std::sync::Arc;

use super::ext4::Ext4;
use super::plan::Stored;
use super::range_set::RangeSet;
use super::replay::Fetching;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{FILE_LIST_BYTES_MAX, SECTOR_BYTES};
use crate::lsmt::{SectorRange, Stack};
use crate::read_at::{Progress, ReadAt, Wait};

/// Most pieces of the disk that the files of one directory may lie in.
const RANGES_MAX: usize = 1 << 20;

const OP: &str = "read file list";

/// So many paths that are not found are named in the log.
const MISSING_SHOWN_MAX: usize = 10;

/// What a list names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileList {
    /// In the order of the list.
    pub entries: Vec<FileListEntry>,
    /// Lines that are neither paths nor empty.
    pub ignored: usize,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileListEntry {
    /// From the root of the file system; the first slash may be missing.
    pub path: String,
    /// Everything below it?
    pub is_tree: bool,
}

impl FileList {
    /// Reads the lines of a list.
    ///
    /// # Errors
    /// `Unsupported` for one that is too large; `Corrupt` when no line is a path.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > FILE_LIST_BYTES_MAX {
            let detail =
                format!("no trace, and larger than a file list: {FILE_LIST_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
        let lines = bytes
            .split(|byte| *byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .filter(|line| !line.is_empty());
        let mut list = Self::default();
        for line in lines {
            match parse_line(line) {
                Some(entry) => list.entries.push(entry),
                None => list.ignored += 1,
            }
        }
        if list.entries.is_empty() {
            let detail = "neither a trace nor a list of files";
            return Err(Error::corrupt(OP, detail));
        }
        Ok(list)
    }
}

fn parse_line(line: &[u8]) -> Option<FileListEntry> {
    let text = std::str::from_utf8(line).ok()?;
    let path = text.strip_suffix('*').unwrap_or(text);
    let is_path_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'/');
    (!path.is_empty() && path.bytes().all(is_path_byte)).then(|| FileListEntry {
        path: path.to_owned(),
        is_tree: text.ends_with(['/', '*']),
    })
}

/// Where the files of `list` are stored, as far as that is elsewhere. Reads the file system on the
/// disk; blocks for that. `name` is what the log calls the list.
///
/// # Errors
/// As [`Ext4::open`]. What is missing or damaged in it is left out.
pub(super) fn stored(
    list: &FileList,
    name: &str,
    stack: &Arc<Stack>,
    fetching: &Fetching,
) -> Result<Vec<Stored>> {
    let disk = Disk(Arc::clone(stack));
    let file_system = Ext4::open(&disk)?;
    let (mut stored, mut known) = (Vec::new(), RangeSet::default());
    let mut missing = 0;
    for entry in &list.entries {
        if fetching.closing.is_closed() {
            break;
        }
        match ranges_of(&file_system, entry) {
            Ok(ranges) => {
                let new = ranges.into_iter().flat_map(|range| known.insert(range));
                stored.extend(new.flat_map(|range| stored_of_disk(range, stack, fetching)));
            }
            Err(error) => {
                missing += 1;
                if missing <= MISSING_SHOWN_MAX {
                    log::warn!("prefetch of {name}: {}: {error}", entry.path);
                }
            }
        }
    }
    if missing > MISSING_SHOWN_MAX {
        let others = missing - MISSING_SHOWN_MAX;
        log::warn!("prefetch of {name}: {others} more paths are not there");
    }
    Ok(stored)
}

/// The bytes of the disk that hold what `entry` names.
fn ranges_of(file_system: &Ext4<'_>, entry: &FileListEntry) -> Result<Vec<Range<u64>>> {
    let Some(inode) = file_system.find(&entry.path)? else {
        return Err(Error::new(
            ErrorKind::NotFound,
            OP,
            "no such file in the image",
        ));
    };
    if !entry.is_tree {
        return file_system.ranges(inode);
    }
    let mut ranges = Vec::new();
    for file in file_system.files_below(inode)? {
        ranges.extend(file_system.ranges(file)?);
        if ranges.len() > RANGES_MAX {
            let detail = format!("more than {RANGES_MAX} pieces on the disk");
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
    }
    Ok(ranges)
}

/// The parts of remote layers that hold these bytes of the disk.
fn stored_of_disk(range: Range<u64>, stack: &Stack, fetching: &Fetching) -> Vec<Stored> {
    let sectors = SectorRange {
        start: range.start / SECTOR_BYTES,
        end: range.end.div_ceil(SECTOR_BYTES),
    };
    let mappings = stack.index().lookup(sectors);
    let data = mappings.filter(|mapping| !mapping.is_zeroed());
    data.filter_map(|mapping| {
        let layer = stack.number_of(mapping.tag())?;
        let source = stack.source(layer).filter(|_| fetching.is_remote(layer))?;
        let decoded = mapping.moffset() * SECTOR_BYTES..mapping.moffset_end() * SECTOR_BYTES;
        Some(Stored {
            layer,
            range: source.stored_range(decoded),
        })
    })
    .collect()
}

/// The disk as a file.
#[derive(Debug)]
struct Disk(Arc<Stack>);

impl ReadAt for Disk {
    fn size(&self) -> u64 {
        self.0.virtual_size_bytes()
    }

    fn name(&self) -> &str {
        "disk"
    }

    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        self.0.read_at(offset, dest, wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, is_tree: bool) -> FileListEntry {
        let path = path.to_owned();
        FileListEntry { path, is_tree }
    }

    #[test]
    fn lines_that_are_paths_are_kept_and_others_are_not() {
        let text =
            b"/usr/bin/python3.11\r\n  etc/ld.so.cache \n\n# comment\n/usr/lib/*\n/opt/app/\n\
            /a b\n/caf\xc3\xa9\n\xff\n/x*y\n/\n*\n";
        let list = FileList::parse(text).unwrap();
        let expected = [
            entry("/usr/bin/python3.11", false),
            entry("etc/ld.so.cache", false),
            entry("/usr/lib/", true),
            entry("/opt/app/", true),
            entry("/", true),
        ];
        assert_eq!(list.entries, expected);
        assert_eq!(list.ignored, 6);
    }

    #[test]
    fn what_is_too_large_or_has_no_path_is_no_list() {
        let error = FileList::parse(&[b'a'; FILE_LIST_BYTES_MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(FileList::parse(&[b'a'; FILE_LIST_BYTES_MAX]).is_ok());
        for nothing in [&b""[..], b"\n \n", b"\x20\x18\xef\0\0\0"] {
            let error = FileList::parse(nothing).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
    }
}
