//! The file of a layer that is being downloaded: `.download`, until it is whole.
//!
//! attempt -> **partial file** -> `overlaybd.commit`
//!
//! Invariants
//! - whoever writes the file holds its lock (flock): one thread of all processes;
//! - a piece is written in one go, so that a file that was left behind has whole pieces and holes;
//! - `overlaybd.commit` is made by renaming a file that is whole, was checked, and is on the device.
//!
//! Source: format reference 4.1, 4.4.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind as IoErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::io::{free_bytes, next_data_extent};

const OP: &str = "download layer";

/// What a whole layer is called in its directory.
const WHOLE: &str = "overlaybd.commit";
const PARTIAL: &str = ".download";

/// Used instead where `.download` belongs to the cache. Nobody else may write to what becomes the
/// layer, so its bytes are copied.
const PARTIAL_BESIDE_CACHE: &str = ".download.filling";
/// What the cache has in a layer's directory.
const CACHE_FILES: [&str; 2] = [PARTIAL, CACHE_RECORD];
const CACHE_RECORD: &str = ".download.chunks";

/// Bytes that are hashed at once.
const HASH_BYTES: usize = 1 << 20;

/// The whole layer in `dir`.
pub(super) fn whole_path(dir: &Path) -> PathBuf {
    dir.join(WHOLE)
}

/// A locked `.download`.
#[derive(Debug)]
pub(super) struct PartialFile {
    file: File,
    dir: PathBuf,
    path: PathBuf,
    size: u64,
    beside_cache: bool,
    /// Nobody had written to it before this process.
    pub(super) is_new: bool,
}

/// What became of the wish to download.
#[derive(Debug)]
pub(super) enum Claim {
    /// It is ours to fill.
    Mine(PartialFile),
    /// Another thread or process fills it, or has just ended: look again.
    Taken,
}

impl PartialFile {
    /// Opens or makes the file of a layer of `size` bytes, unless somebody else works on it.
    /// `beside_cache`: the cache keeps what it has of the layer in `dir`, too.
    ///
    /// # Errors
    /// `NotFound`, `Io`, `NoSpace`; `Config` if something else has its name.
    pub(super) fn claim(dir: &Path, size: u64, beside_cache: bool) -> Result<Claim> {
        Self::open(dir, size, beside_cache)?.lock()
    }

    /// Not locked yet: somebody else may be writing it.
    fn open(dir: &Path, size: u64, beside_cache: bool) -> Result<Self> {
        // Another process's cache may be there while this one's is elsewhere.
        let beside_cache = beside_cache || dir.join(CACHE_RECORD).exists();
        let path = dir.join(match beside_cache {
            true => PARTIAL_BESIDE_CACHE,
            false => PARTIAL,
        });
        let opened = open(&path);
        let (file, is_new) =
            opened.map_err(|source| Error::io(OP, source).in_file(path.display().to_string()))?;
        Ok(Self {
            file,
            dir: dir.to_owned(),
            path,
            size,
            beside_cache,
            is_new,
        })
    }

    fn lock(self) -> Result<Claim> {
        match self.file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Claim::Taken),
            Err(TryLockError::Error(source)) => return Err(self.fail(source)),
        }
        // The last holder of the lock may have renamed the file, or removed it.
        if !self.has_its_name() {
            return Ok(Claim::Taken);
        }
        if whole_path(&self.dir).exists() {
            if self.is_new {
                self.remove();
            }
            return Ok(Claim::Taken);
        }
        let metadata = self.file.metadata().map_err(|source| self.fail(source))?;
        if !metadata.is_file() {
            let detail = "expected a regular file: remove what has its name";
            let error = Error::new(ErrorKind::Config, OP, detail);
            return Err(error.in_file(self.path.display().to_string()));
        }
        if metadata.len() != self.size {
            let sized = self.file.set_len(self.size);
            sized.map_err(|source| self.fail(source))?;
        }
        Ok(Claim::Mine(self))
    }

    fn has_its_name(&self) -> bool {
        self.is_called(&self.path)
    }

    fn is_called(&self, path: &Path) -> bool {
        let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
        let named = std::fs::symlink_metadata(path).map(identity);
        let ours = self.file.metadata().map(identity);
        matches!((named, ours), (Ok(named), Ok(ours)) if named == ours)
    }

    /// Is every byte of `range` data, as far as the file system can tell?
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn has(&self, range: &Range<u64>) -> Result<bool> {
        let extent = next_data_extent(&self.file, range.start, self.size);
        let extent = extent.map_err(|source| self.fail(source).at(range.start))?;
        Ok(extent.is_some_and(|data| data.start <= range.start && data.end >= range.end))
    }

    /// Writes a whole piece.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    pub(super) fn write(&self, offset: u64, piece: &[u8]) -> Result<()> {
        let written = self.file.write_all_at(piece, offset);
        written.map_err(|source| self.fail(source).at(offset))
    }

    /// The digest of what the file holds, as `sha256:...`; `None` if `go_on` said no.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn digest(&self, go_on: impl Fn() -> bool) -> Result<Option<String>> {
        let mut hash = Sha256::new();
        let mut buf = vec![0; HASH_BYTES];
        let mut offset = 0;
        while offset < self.size {
            if !go_on() {
                return Ok(None);
            }
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            let part = buf.get_mut(..left.min(HASH_BYTES)).unwrap_or_default();
            let read = self.file.read_exact_at(part, offset);
            read.map_err(|source| self.fail(source).at(offset))?;
            hash.update(&*part);
            offset += part.len() as u64;
        }
        let hex = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        Ok(Some(format!("sha256:{hex}")))
    }

    /// Makes it the layer's own file; it has the right bytes.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    pub(super) fn publish(self) -> Result<()> {
        self.file.sync_all().map_err(|source| self.fail(source))?;
        // Programs that know nothing of the lock may have put another file in its place.
        if !self.has_its_name() {
            return Err(self.lost());
        }
        let whole = whole_path(&self.dir);
        std::fs::rename(&self.path, &whole).map_err(|source| self.fail(source))?;
        if !self.is_called(&whole) {
            let removed = std::fs::remove_file(&whole);
            removed.map_err(|source| self.fail(source))?;
            return Err(self.lost());
        }
        // The layer is there, for now; after a power cut there may be a `.download` again.
        if let Err(error) = File::open(&self.dir).and_then(|dir| dir.sync_all()) {
            log::warn!(
                "{}: cannot flush the directory: {error}",
                self.dir.display()
            );
        }
        if self.beside_cache {
            // Who reads them has them open; whoever comes later reads the layer.
            for name in CACHE_FILES {
                drop(std::fs::remove_file(self.dir.join(name)));
            }
        }
        Ok(())
    }

    /// Bytes that may still be written to its file system.
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn free_bytes(&self) -> Result<u64> {
        free_bytes(&self.file).map_err(|source| self.fail(source))
    }

    fn lost(&self) -> Error {
        let detail = "somebody removed or replaced the file while it was filled";
        Error::new(ErrorKind::Io, OP, detail).in_file(self.path.display().to_string())
    }

    /// Its bytes are of no use.
    pub(super) fn remove(self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{}: cannot remove it: {error}", self.path.display());
        }
    }

    fn fail(&self, source: io::Error) -> Error {
        Error::io(OP, source).in_file(self.path.display().to_string())
    }
}

/// Opens the file, or makes it: true.
fn open(path: &Path) -> io::Result<(File, bool)> {
    let mut options = File::options();
    // O_NONBLOCK: a FIFO of that name must not be waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    options
        .read(true)
        .write(true)
        .mode(0o644)
        .custom_flags(flags);
    match options.clone().create_new(true).open(path) {
        Err(error) if error.kind() == IoErrorKind::AlreadyExists => {
            Ok((options.open(path)?, false))
        }
        other => Ok((other?, true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mine(dir: &Path, size: u64) -> PartialFile {
        match PartialFile::claim(dir, size, false).unwrap() {
            Claim::Mine(partial) => partial,
            Claim::Taken => panic!("taken"),
        }
    }

    #[test]
    fn one_holder_at_a_time_and_none_after_the_rename() {
        let dir = tempfile::tempdir().unwrap();
        let first = mine(dir.path(), 5);
        assert!(first.is_new);
        assert!(matches!(
            PartialFile::claim(dir.path(), 5, false).unwrap(),
            Claim::Taken
        ));
        first.write(0, b"hello").unwrap();
        first.publish().unwrap();
        assert_eq!(std::fs::read(whole_path(dir.path())).unwrap(), b"hello");
        assert!(matches!(
            PartialFile::claim(dir.path(), 5, false).unwrap(),
            Claim::Taken
        ));
        assert!(!dir.path().join(PARTIAL).exists());
    }

    #[test]
    fn what_another_cache_keeps_beside_the_layer_is_not_written_to() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PARTIAL), b"media").unwrap();
        std::fs::write(dir.path().join(CACHE_RECORD), b"record").unwrap();
        mine(dir.path(), 5).write(0, b"hello").unwrap();
        assert_eq!(std::fs::read(dir.path().join(PARTIAL)).unwrap(), b"media");
    }

    #[test]
    fn a_file_that_lost_its_name_while_somebody_waited_for_it_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let first = mine(dir.path(), 5);
        let late = PartialFile::open(dir.path(), 5, false).unwrap();
        first.write(0, b"hello").unwrap();
        first.publish().unwrap();
        assert!(matches!(late.lock().unwrap(), Claim::Taken));

        std::fs::remove_file(whole_path(dir.path())).unwrap();
        let first = mine(dir.path(), 5);
        let late = PartialFile::open(dir.path(), 5, false).unwrap();
        first.remove();
        assert!(matches!(late.lock().unwrap(), Claim::Taken));
    }

    #[test]
    fn holes_are_told_from_data() {
        let dir = tempfile::tempdir().unwrap();
        let partial = mine(dir.path(), 1 << 20);
        assert!(!partial.has(&(0..4096)).unwrap());
        partial.write(65536, &[1; 65536]).unwrap();
        assert!(partial.has(&(65536..131_072)).unwrap());
        assert!(!partial.has(&(0..131_072)).unwrap());
        assert!(!partial.has(&(65536..(1 << 20))).unwrap());
        drop(partial);
        let again = mine(dir.path(), 1 << 20);
        assert!(!again.is_new);
        assert!(again.has(&(65536..131_072)).unwrap());
    }

    #[test]
    fn a_file_of_another_size_is_made_to_fit() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(PARTIAL), [7; 9000]).unwrap();
        let partial = mine(dir.path(), 100);
        assert_eq!(partial.file.metadata().unwrap().len(), 100);
    }

    #[test]
    fn the_digest_is_that_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let partial = mine(dir.path(), 3);
        partial.write(0, b"abc").unwrap();
        let digest = partial.digest(|| true).unwrap().unwrap();
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest, abc);
        assert_eq!(partial.digest(|| false).unwrap(), None);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("elsewhere", dir.path().join(PARTIAL)).unwrap();
        let error = PartialFile::claim(dir.path(), 3, false).unwrap_err();
        assert!(error.to_string().contains(".download"), "{error}");
        assert!(!dir.path().join("elsewhere").exists());
    }

    #[test]
    fn a_file_that_took_its_place_never_becomes_the_layer() {
        let dir = tempfile::tempdir().unwrap();
        let partial = mine(dir.path(), 5);
        partial.write(0, b"hello").unwrap();
        std::fs::remove_file(&partial.path).unwrap();
        std::fs::write(&partial.path, b"other").unwrap();
        assert!(partial.publish().is_err());
        assert!(!whole_path(dir.path()).exists());
    }

    #[test]
    fn the_files_of_a_cache_beside_it_are_not_written_and_go_when_the_layer_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        for name in CACHE_FILES {
            std::fs::write(dir.path().join(name), "cache").unwrap();
        }
        let claim = PartialFile::claim(dir.path(), 5, true).unwrap();
        let Claim::Mine(partial) = claim else {
            panic!("taken")
        };
        partial.write(0, b"hello").unwrap();
        for name in CACHE_FILES {
            assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"cache");
        }
        partial.publish().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(whole_path(dir.path())).unwrap(), b"hello");
    }
}
