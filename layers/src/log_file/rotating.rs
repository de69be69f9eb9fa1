//! A file of lines that is never much larger than it may be.
//!
//! audit, log output -> **rotating file**
//!
//! `x` is written; when it is full it becomes `x.1`, that `x.2`, and so on; the oldest goes.
//!
//! Invariants
//! - several processes may write to one file: a line is one write at its end (`O_APPEND`), and who
//!   rotates holds the lock (flock) of the file that is full;
//! - a file that somebody else moved or removed is left alone, and a new one begun.

use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Where lines go. Opened by the first one.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    bytes_max: u64,
    files: u32,
    file: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    identity: (u64, u64),
}

impl RotatingFile {
    /// `path` may have `bytes_max` bytes; so many `files` are kept, that one included. Touches nothing.
    #[must_use]
    pub fn new(path: &Path, bytes_max: u64, files: u32) -> Self {
        Self {
            path: path.to_owned(),
            bytes_max,
            files: files.max(1),
            file: None,
        }
    }

    /// Opens or makes the file now.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `Config` for something that is no file.
    pub fn open(&mut self) -> Result<()> {
        let opened = open(&self.path).map_err(|error| {
            Error::io("open log file", error).in_file(self.path.display().to_string())
        })?;
        let kind = opened.file.metadata().map(|metadata| metadata.file_type());
        if kind.is_ok_and(|kind| {
            kind.is_file() || std::os::unix::fs::FileTypeExt::is_char_device(&kind)
        }) {
            self.file = Some(opened);
            return Ok(());
        }
        let detail = "expected a regular file";
        Err(Error::new(ErrorKind::Config, "open log file", detail)
            .in_file(self.path.display().to_string()))
    }

    /// Appends whole lines. May block for the disk.
    ///
    /// # Errors
    /// As [`RotatingFile::open`]; `NoSpace`.
    pub fn append(&mut self, lines: &[u8]) -> Result<()> {
        let named = std::fs::metadata(&self.path).ok();
        let is_named = |open: &Open| named.as_ref().map(identity) == Some(open.identity);
        if !self.file.as_ref().is_some_and(is_named) {
            self.open()?;
        }
        let size = named
            .filter(Metadata::is_file)
            .map_or(0, |named| named.len());
        if size > 0 && size.saturating_add(lines.len() as u64) > self.bytes_max {
            self.rotate();
        }
        if self.file.is_none() {
            self.open()?;
        }
        let Some(open) = &mut self.file else {
            return Ok(());
        };
        open.file.write_all(lines).map_err(|error| {
            Error::io("write log file", error).in_file(self.path.display().to_string())
        })
    }

    /// Moves the full file away, unless somebody else does or has done so. One that cannot be moved
    /// grows on: lines are worth more than the limit.
    fn rotate(&mut self) {
        let Some(full) = self.file.take() else {
            return;
        };
        // Somebody else is at it: for now the line goes to the file as it is.
        if full.file.try_lock().is_err() {
            self.file = Some(full);
            return;
        }
        let named = std::fs::metadata(&self.path).ok();
        if named.as_ref().map(identity) != Some(full.identity) {
            return;
        }
        if self.move_away(&full.file).is_err() {
            // The lock must not outlive the attempt.
            drop(full.file.unlock());
            self.file = Some(full);
        }
    }

    fn move_away(&self, full: &File) -> io::Result<()> {
        if self.files == 1 {
            full.set_len(0)?;
            return full.unlock();
        }
        for number in (1..self.files - 1).rev() {
            match std::fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, self.numbered(1))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

fn open(path: &Path) -> io::Result<Open> {
    let mut options = File::options();
    // O_NONBLOCK: a FIFO is an error or fails to be a file, it is not waited for.
    options
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(libc::O_NONBLOCK);
    let file = options.open(path)?;
    let identity = identity(&file.metadata()?);
    Ok(Open { file, identity })
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn a_full_file_is_moved_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut file = RotatingFile::new(&path, 12, 3);
        for number in 0..7 {
            file.append(format!("line{number}\n").as_bytes()).unwrap();
        }
        assert_eq!(read(&path), "line6\n");
        assert_eq!(read(&file.numbered(1)), "line4\nline5\n");
        assert_eq!(read(&file.numbered(2)), "line2\nline3\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn one_file_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut file = RotatingFile::new(&path, 12, 1);
        for number in 0..5 {
            file.append(format!("line{number}\n").as_bytes()).unwrap();
        }
        assert_eq!(read(&path), "line4\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_line_that_is_too_long_is_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut file = RotatingFile::new(&path, 4, 2);
        file.append(b"long line\n").unwrap();
        assert_eq!(read(&path), "long line\n");
    }

    #[test]
    fn what_was_there_stays_and_what_others_move_is_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "old\n").unwrap();
        let mut file = RotatingFile::new(&path, 100, 3);
        file.append(b"one\n").unwrap();
        assert_eq!(read(&path), "old\none\n");
        let away = dir.path().join("away");
        std::fs::rename(&path, &away).unwrap();
        file.append(b"two\n").unwrap();
        assert_eq!(
            (read(&path), read(&away)),
            ("two\n".into(), "old\none\n".into())
        );
    }

    #[test]
    fn writers_of_one_file_lose_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let (writers, lines) = (4, 500);
        std::thread::scope(|scope| {
            for writer in 0..writers {
                let path = &path;
                scope.spawn(move || {
                    // Each has a description of its own, like a process of its own.
                    let mut file = RotatingFile::new(path, 1000, 30);
                    for line in 0..lines {
                        let text = format!("{writer} {line} {:>50}\n", "");
                        file.append(text.as_bytes()).unwrap();
                    }
                });
            }
        });
        let file = RotatingFile::new(&path, 1000, 30);
        let all: Vec<_> = (1..30).map(|number| file.numbered(number)).collect();
        let newest: String = all
            .iter()
            .rev()
            .chain([&path])
            .map(|file| read(file))
            .collect();
        // 30 files do not hold them all; what they hold is whole, and in each writer's order.
        let mut last = vec![None; writers];
        for line in newest.lines() {
            let mut words = line
                .split_whitespace()
                .map(|word| word.parse::<usize>().unwrap());
            let (writer, number) = (words.next().unwrap(), words.next().unwrap());
            assert_eq!(words.next(), None);
            assert!(last[writer] < Some(number), "{line}");
            last[writer] = Some(number);
        }
        assert!(last.contains(&Some(lines - 1)));
        assert!(all.iter().all(|file| file.exists()));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("no/x");
        let error = RotatingFile::new(&missing, 1, 1).append(b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("no/x"), "{error}");
        assert!(RotatingFile::new(dir.path(), 1, 1).open().is_err());
    }
}
