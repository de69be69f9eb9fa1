//! Files of a writable layer in memory that keep a journal, and fail when they are told to.
//!
//! From the journal any state can be rebuilt in which a killed process or a power cut may leave
//! the two files.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use layers::{Dest, Error, ErrorKind, Progress, ReadAt, Result, Wait, WriteAt};

/// What file systems tell holes from data by.
const BLOCK: usize = 4096;
const SECTOR: usize = 512;

/// One change of one of the files.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) file: usize,
    pub(crate) change: Change,
}

#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetSize(usize),
    PunchHole(Range<usize>),
    Flush,
}

/// How an operation is made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    NoSpace,
    IoError,
    /// A part of a write is done, then the space is gone. As `NoSpace` for the others.
    ShortWrite,
}

/// What a file holds: bytes, and which blocks are allocated.
#[derive(Debug, Clone, Default)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    allocated: Vec<bool>,
}

impl Content {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.write(0, bytes);
        content
    }

    pub(crate) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => self.write(*offset, data),
            Change::SetSize(size) => self.set_size(*size),
            Change::PunchHole(range) => self.punch(range),
            Change::Flush => {}
        }
    }

    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.bytes.len() < end {
            self.set_size(end);
        }
        self.bytes[offset..end].copy_from_slice(data);
        self.allocated[offset / BLOCK..end.div_ceil(BLOCK)].fill(true);
    }

    fn set_size(&mut self, size: usize) {
        self.bytes.resize(size, 0);
        self.allocated.resize(size.div_ceil(BLOCK), false);
    }

    fn punch(&mut self, range: &Range<usize>) {
        let end = range.end.min(self.bytes.len());
        self.bytes[range.start..end].fill(0);
        for block in range.start.div_ceil(BLOCK)..end / BLOCK {
            self.allocated[block] = false;
        }
    }

    fn is_allocated(&self, block: usize) -> bool {
        self.allocated.get(block) == Some(&true)
    }

    fn next_data_extent(&self, from: usize) -> Option<Range<u64>> {
        let start = (from / BLOCK..self.allocated.len()).find(|block| self.is_allocated(*block))?;
        let end = (start..).find(|block| !self.is_allocated(*block))?;
        let (start, end) = (
            (start * BLOCK).max(from),
            (end * BLOCK).min(self.bytes.len()),
        );
        Some(start as u64..end as u64)
    }

    /// Does the first part of a write that was cut short, and returns it: whole sectors, and a whole block where there
    /// was a hole, since the kernel copies pages.
    pub(crate) fn write_cut_short(&mut self, offset: usize, data: &[u8]) -> Option<Change> {
        let half = offset + data.len() / 2;
        let unit = match self.is_allocated(half / BLOCK) {
            true => SECTOR,
            false => BLOCK,
        };
        let len = (half / unit * unit).checked_sub(offset)?;
        let data = data[..len].to_vec();
        let change = Change::Write { offset, data };
        self.apply(&change);
        Some(change)
    }

    fn block(&self, block: usize) -> Option<&[u8]> {
        let start = block * BLOCK;
        let end = (start + BLOCK).min(self.bytes.len());
        self.is_allocated(block).then(|| &self.bytes[start..end])
    }

    /// What the device may hold after a power cut when `self` was flushed and `changes` were not.
    /// The kernel writes pages, whenever and in whichever order it likes: each block is as it was
    /// after any one of the changes, as `pick` says for `n` of them. When `tears`, each sector is,
    /// else only those of a block that was there before.
    pub(crate) fn after_power_cut(
        &self,
        changes: &[&Change],
        tears_new_blocks: bool,
        mut pick: impl FnMut(usize) -> usize,
    ) -> Self {
        let mut states: BTreeMap<usize, Vec<Option<Vec<u8>>>> = BTreeMap::new();
        let mut sizes = vec![self.bytes.len()];
        let mut now = self.clone();
        for change in changes {
            let touched = now.touched_by(change);
            for block in touched.clone() {
                let before = now.block(block).map(<[u8]>::to_vec);
                states.entry(block).or_insert_with(|| vec![before]);
            }
            now.apply(change);
            for block in touched {
                let after = now.block(block).map(<[u8]>::to_vec);
                states.entry(block).or_default().push(after);
            }
            sizes.push(now.bytes.len());
        }
        let mut left = self.clone();
        left.set_size(sizes[pick(sizes.len())]);
        for (block, states) in states {
            let was_there = states[0].is_some();
            let start = block * BLOCK;
            let end = (start + BLOCK).min(left.bytes.len());
            let unit = if was_there || tears_new_blocks {
                SECTOR
            } else {
                BLOCK
            };
            for at in (start..end).step_by(unit) {
                let until = (at + unit).min(end);
                match &states[pick(states.len())] {
                    Some(bytes) => {
                        let mut bytes = bytes.clone();
                        bytes.resize(BLOCK, 0);
                        left.write(at, &bytes[at - start..until - start]);
                    }
                    None if unit == BLOCK => left.punch(&(at..at + BLOCK)),
                    None => left.bytes[at..until].fill(0),
                }
            }
        }
        left
    }

    fn touched_by(&self, change: &Change) -> Range<usize> {
        match change {
            Change::Write { offset, data } => offset / BLOCK..(offset + data.len()).div_ceil(BLOCK),
            Change::SetSize(size) => {
                let first = size.min(&self.bytes.len()) / BLOCK;
                first..first + 1
            }
            Change::PunchHole(range) => range.start / BLOCK..range.end.div_ceil(BLOCK),
            Change::Flush => 0..0,
        }
    }
}

#[derive(Debug, Default)]
struct Journal {
    contents: Vec<Content>,
    ops: Vec<Op>,
    fault: Option<(usize, Fault)>,
    /// Operations since the fault was set.
    seen: usize,
    failed: Option<Op>,
}

/// The files of one layer, with one journal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<Journal>>);

impl Disk {
    pub(crate) fn new(contents: Vec<Content>) -> Self {
        Self(Arc::new(Mutex::new(Journal {
            contents,
            ..Journal::default()
        })))
    }

    pub(crate) fn file(&self, file: usize) -> Box<dyn WriteAt> {
        let disk = self.clone();
        let name = format!("file {file}");
        Box::new(RecordedFile { disk, file, name })
    }

    pub(crate) fn ops(&self) -> Vec<Op> {
        self.0.lock().unwrap().ops.clone()
    }

    pub(crate) fn ops_done(&self) -> usize {
        self.0.lock().unwrap().ops.len()
    }

    pub(crate) fn contents(&self) -> Vec<Content> {
        self.0.lock().unwrap().contents.clone()
    }

    /// The `nth` change from now on fails, 0 = the next one.
    pub(crate) fn fail(&self, nth: usize, fault: Fault) {
        let mut journal = self.0.lock().unwrap();
        (journal.fault, journal.seen) = (Some((nth, fault)), 0);
    }

    /// What has failed.
    pub(crate) fn failed(&self) -> Option<Op> {
        self.0.lock().unwrap().failed.clone()
    }

    fn change(&self, file: usize, change: Change) -> Result<()> {
        let mut journal = self.0.lock().unwrap();
        let due = journal.fault.filter(|(nth, _)| *nth == journal.seen);
        journal.seen += 1;
        let Some((_, fault)) = due else {
            journal.contents[file].apply(&change);
            journal.ops.push(Op { file, change });
            return Ok(());
        };
        if let (Fault::ShortWrite, Change::Write { offset, data }) = (fault, &change) {
            let written = journal.contents[file].write_cut_short(*offset, data);
            journal
                .ops
                .extend(written.map(|change| Op { file, change }));
        }
        journal.failed = Some(Op { file, change });
        let (kind, what) = match fault {
            Fault::IoError => (ErrorKind::Io, "injected EIO"),
            Fault::NoSpace | Fault::ShortWrite => (ErrorKind::NoSpace, "injected ENOSPC"),
        };
        Err(Error::new(kind, "change file", what).in_file(format!("file {file}")))
    }
}

#[derive(Debug)]
struct RecordedFile {
    disk: Disk,
    file: usize,
    name: String,
}

impl ReadAt for RecordedFile {
    fn size(&self) -> u64 {
        self.disk.0.lock().unwrap().contents[self.file].bytes.len() as u64
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, offset: u64, mut dest: Dest<'_>, _wait: Wait) -> Result<Progress> {
        let journal = self.disk.0.lock().unwrap();
        let bytes = &journal.contents[self.file].bytes;
        let start = usize::try_from(offset).unwrap();
        let Some(wanted) = bytes.get(start..start + dest.len()) else {
            let detail = format!("{} bytes wanted, the file has {}", dest.len(), bytes.len());
            return Err(Error::new(ErrorKind::OutOfRange, "read file", detail).at(offset));
        };
        dest.copy_from(wanted);
        Ok(Progress::Done)
    }
}

impl WriteAt for RecordedFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let offset = usize::try_from(offset).unwrap();
        let data = data.to_vec();
        self.disk.change(self.file, Change::Write { offset, data })
    }

    fn set_size(&self, size: u64) -> Result<()> {
        let size = usize::try_from(size).unwrap();
        self.disk.change(self.file, Change::SetSize(size))
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<()> {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        self.disk.change(self.file, Change::PunchHole(range))
    }

    fn flush(&self) -> Result<()> {
        self.disk.change(self.file, Change::Flush)
    }

    fn next_data_extent(&self, from: u64) -> Result<Option<Range<u64>>> {
        let journal = self.disk.0.lock().unwrap();
        let from = usize::try_from(from).unwrap();
        Ok(journal.contents[self.file].next_data_extent(from))
    }
}
