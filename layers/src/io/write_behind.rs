//! Starts writing an output to the device while it is still being made.
//!
//! output file -> **write behind**
//!
//! Otherwise all of it would wait for the flush at the end, with nothing else left to do.
//!
//! Source: sync_file_range(2).

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;

/// Bytes that are handed to the device at once.
const STEP_BYTES: u64 = 4 << 20;

/// A file that is mostly written in order.
#[derive(Debug)]
pub struct WriteBehind<'a> {
    file: &'a File,
    position: u64,
    /// Everything before is on its way.
    started: u64,
}

impl<'a> WriteBehind<'a> {
    /// Writes to `file` from its start on.
    #[must_use]
    pub fn new(file: &'a File) -> Self {
        Self {
            file,
            position: 0,
            started: 0,
        }
    }

    /// A hint, so a refusal does not matter: the flush at the end tells what went wrong.
    fn start(&mut self) {
        let len = self.position - self.started;
        if let (Ok(from), Ok(len)) = (i64::try_from(self.started), i64::try_from(len)) {
            let (descriptor, how) = (self.file.as_raw_fd(), libc::SYNC_FILE_RANGE_WRITE);
            // SAFETY: a plain system call on an open descriptor, no memory involved.
            unsafe { libc::sync_file_range(descriptor, from, len, how) };
        }
        self.started = self.position;
    }
}

impl Write for WriteBehind<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.position += len as u64;
        if self.position >= self.started + STEP_BYTES {
            self.start();
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for WriteBehind<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = self.file.seek(to)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_where_a_plain_file_would_have_them() {
        let plain = tempfile::tempfile().unwrap();
        let behind = tempfile::tempfile().unwrap();
        let mut sinks: [Box<dyn WriteSeek>; 2] =
            [Box::new(&plain), Box::new(WriteBehind::new(&behind))];
        for sink in &mut sinks {
            for part in 0..200_u8 {
                sink.write_all(&vec![part; 70_000]).unwrap();
            }
            sink.seek(SeekFrom::Start(5)).unwrap();
            sink.write_all(b"header").unwrap();
            sink.seek(SeekFrom::End(0)).unwrap();
            sink.write_all(b"end").unwrap();
            assert_eq!(sink.stream_position().unwrap(), 200 * 70_000 + 3);
        }
        drop(sinks);
        let bytes = |mut file: &File| {
            let mut bytes = Vec::new();
            file.rewind().unwrap();
            io::Read::read_to_end(&mut file, &mut bytes).unwrap();
            bytes
        };
        assert!(bytes(&plain) == bytes(&behind));
    }

    trait WriteSeek: Write + Seek {}
    impl<T: Write + Seek> WriteSeek for T {}
}
