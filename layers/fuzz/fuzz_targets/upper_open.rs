//! Any bytes as the index log of a writable layer, or in the headers of its files: opened for
//! reading, opened for writing, which mends it, and opened again.
//!
//! The first byte is the place in the header of the data file (even) or of the log (odd) where
//! the next 32 bytes go, in steps of 16; 0 leaves both headers alone. The rest is the log.
#![no_main]

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use layers::lsmt::upper::{Upper, read_only_from_files};
use layers::lsmt::{HEADER_BYTES, Record, Uuid};
use layers::{Dest, Error, ErrorKind, Image, Progress, ReadAt, Result, Wait, WriteAt};

const DISK_BYTES: u64 = 1 << 30;
const DATA_BYTES: u64 = 2 << 20;

/// More than this is never stored.
const STORED_BYTES_MAX: usize = 1 << 20;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((place, rest)) = input.split_first() else {
        return;
    };
    let mut headers = [header(true), header(false)];
    let mut log = rest;
    if *place > 0
        && let Some((bytes, behind)) = rest.split_at_checked(32)
        && let Some(header) = headers.get_mut(usize::from(place % 2))
    {
        let start = usize::from(place / 2) * 16;
        header
            .iter_mut()
            .skip(start)
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        log = behind;
    }
    let [data, index] = headers;
    let data = FuzzFile::new("data", data.to_vec(), DATA_BYTES);
    let index = [&index, log].concat();
    let index_bytes = index.len() as u64;
    let index = FuzzFile::new("index", index, index_bytes);
    // What does not open is refused; only a panic is a fault.
    drop(open_both_ways(&data, &index));
});

fn header(is_data_file: bool) -> [u8; HEADER_BYTES] {
    let record = Record {
        flags: Record::writable_flags(is_data_file, false),
        index_offset_bytes: if is_data_file { 0 } else { 4096 },
        index_entries: 0,
        virtual_size_bytes: DISK_BYTES,
        uuid: Uuid::NIL,
        parent_uuid: Uuid::NIL,
        user_tag: Vec::new(),
    };
    record.encode()
}

fn open_both_ways(data: &FuzzFile, index: &FuzzFile) -> Result<()> {
    let read = read_only_from_files(Box::new(data.clone()), index);
    let written = Upper::from_files(Box::new(data.clone()), Box::new(index.clone()));
    let (Ok(read), Ok(written)) = (&read, &written) else {
        assert!(read.is_err() && written.is_err(), "opens one way only");
        return Ok(());
    };
    let mappings = written.mappings();
    assert_eq!(read.mappings(), mappings, "reading and writing disagree");
    for (one, next) in mappings.iter().zip(mappings.iter().skip(1)) {
        assert!(one.end() <= next.offset(), "sorted and disjoint");
    }
    let again = Upper::from_files(Box::new(data.clone()), Box::new(index.clone()))?;
    assert_eq!(again.mappings(), mappings, "mended, and then different");
    let image = Image::with_upper(Vec::new(), again)?;
    let mut buf = vec![0; 64 << 10];
    for mapping in mappings.iter().take(16) {
        let byte = mapping.offset() * 512;
        drop(image.read_exact_at(byte, &mut buf));
        drop(image.write_at(byte, &[7; 512]));
    }
    drop(image.flush());
    Ok(())
}

/// A file of which only the first bytes are stored; the rest reads as zeros.
#[derive(Debug, Clone)]
struct FuzzFile {
    name: &'static str,
    content: Arc<Mutex<(Vec<u8>, u64)>>,
}

impl FuzzFile {
    fn new(name: &'static str, bytes: Vec<u8>, size: u64) -> Self {
        Self {
            name,
            content: Arc::new(Mutex::new((bytes, size))),
        }
    }

    fn with<T>(&self, look: impl FnOnce(&mut Vec<u8>, &mut u64) -> T) -> T {
        let mut content = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, size) = &mut *content;
        look(bytes, size)
    }
}

impl ReadAt for FuzzFile {
    fn size(&self) -> u64 {
        self.with(|_, size| *size)
    }

    fn name(&self) -> &str {
        self.name
    }

    fn read_at(&self, offset: u64, mut dest: Dest<'_>, _wait: Wait) -> Result<Progress> {
        let end = offset.checked_add(dest.len() as u64);
        if end.is_none_or(|end| end > self.size()) {
            let error = Error::new(ErrorKind::OutOfRange, "read", "beyond the end");
            return Err(error.at(offset));
        }
        self.with(|bytes, _| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let stored = bytes.get(start..).unwrap_or_default();
            let copied = dest.copy_from(stored);
            drop(dest.take_front(copied));
            dest.zero();
        });
        Ok(Progress::Done)
    }
}

impl WriteAt for FuzzFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.with(|bytes, size| {
            let end = offset.saturating_add(data.len() as u64);
            *size = end.max(*size);
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            if start.saturating_add(data.len()) <= STORED_BYTES_MAX {
                bytes.resize(bytes.len().max(start + data.len()), 0);
                bytes
                    .iter_mut()
                    .skip(start)
                    .zip(data)
                    .for_each(|(to, from)| *to = *from);
            }
        });
        Ok(())
    }

    fn set_size(&self, new: u64) -> Result<()> {
        self.with(|bytes, size| {
            *size = new;
            bytes.truncate(usize::try_from(new).unwrap_or(usize::MAX));
        });
        Ok(())
    }

    fn punch_hole(&self, _range: Range<u64>) -> Result<()> {
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn next_data_extent(&self, from: u64) -> Result<Option<Range<u64>>> {
        let size = self.size();
        Ok((from < size).then_some(from..size))
    }
}
