//! A cache directory: its names and its lock.
//!
//! cache -> **directory** -> files
//!
//! ```text
//! sha256:<hex>          media: the blob's bytes, sparse, as long as the blob
//! sha256:<hex>.chunks   its record
//! sha256:<hex>.pin      it is never evicted
//! usage                 bytes that all media and records use, shared by all processes
//! ```
//!
//! Invariant: media and records are made and removed under the lock of their directory, so who opens
//! both finds two that belong together. Everything else in the directory is left alone.
//!
//! Source: docs/cache.md; format reference 7.1.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::config::CacheConfig;
use crate::error::{Error, ErrorKind, Result};

const RECORD_SUFFIX: &str = ".chunks";
/// Behind the name of a record that is being made, or whose maker was killed.
const UNFINISHED_SUFFIX: &str = ".new";
const PIN_SUFFIX: &str = ".pin";
const USAGE: &str = "usage";

/// The files of one blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct BlobFiles {
    pub(super) dir: PathBuf,
    pub(super) media: PathBuf,
    pub(super) record: PathBuf,
}

impl BlobFiles {
    /// The record while it is being made.
    pub(super) fn unfinished(&self) -> PathBuf {
        let mut name = self.record.clone().into_os_string();
        name.push(UNFINISHED_SUFFIX);
        name.into()
    }

    /// Those in a layer's own directory.
    pub(super) fn beside_layer(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            media: dir.join(".download"),
            record: dir.join(".download.chunks"),
        }
    }
}

/// A directory that exists.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
}

/// Keeps others from making or removing blobs, while it lives.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _handle: File,
}

/// Is this the digest of a blob, and so a safe file name?
pub(super) fn is_digest(text: &str) -> bool {
    let hex = |digits: &str, len| {
        digits.len() == len
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    match text.split_once(':') {
        Some(("sha256", digits)) => hex(digits, 64),
        Some(("sha512", digits)) => hex(digits, 128),
        _ => false,
    }
}

impl Directory {
    /// Opens the configured directory, making it if need be. The default one that this user may not
    /// write is replaced by one in the user's home.
    ///
    /// # Errors
    /// `Io`, `NoSpace`, `NotFound`.
    pub(super) fn open_configured(config: &CacheConfig) -> Result<Self> {
        let error = match Self::open_writable(&config.dir) {
            Ok(directory) => return Ok(directory),
            Err(error) => error,
        };
        let own = home_cache().filter(|_| config.dir == CacheConfig::default().dir);
        match own {
            Some(own)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EACCES | libc::EPERM | libc::EROFS)
                ) =>
            {
                let directory = Self::open_writable(&own)?;
                log::info!("{error}; blobs are cached in {}", own.display());
                Ok(directory)
            }
            _ => Err(error),
        }
    }

    fn open_writable(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let fail = |source: std::io::Error| {
            let op = match source.kind() {
                std::io::ErrorKind::PermissionDenied => {
                    "open cache directory (cacheConfig.cacheDir names another)"
                }
                _ => "open cache directory",
            };
            Error::io(op, source).in_file(&name)
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .map_err(fail)?;
        let directory = Self::open(path)?;
        directory.open_usage().map_err(fail)?;
        Ok(directory)
    }

    /// Opens a directory that exists.
    ///
    /// # Errors
    /// `Io`, `NotFound`.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let fail =
            |source| Error::io("open cache directory", source).in_file(path.display().to_string());
        let handle = File::open(path).map_err(fail)?;
        if !handle.metadata().map_err(fail)?.is_dir() {
            let detail = "not a directory";
            return Err(
                Error::new(ErrorKind::Config, "open cache directory", detail)
                    .in_file(path.display().to_string()),
            );
        }
        Ok(Self {
            path: path.to_owned(),
            handle,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn handle(&self) -> &File {
        &self.handle
    }

    /// The file of the usage counter; makes it if need be.
    pub(super) fn open_usage(&self) -> io::Result<File> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(self.path.join(USAGE))?;
        if file.metadata()?.len() != 4096 {
            file.set_len(4096)?;
            crate::io::allocate(&file, 4096)?;
        }
        Ok(file)
    }

    pub(super) fn blob(&self, digest: &str) -> BlobFiles {
        BlobFiles {
            dir: self.path.clone(),
            media: self.path.join(digest),
            record: self.path.join(format!("{digest}{RECORD_SUFFIX}")),
        }
    }

    pub(super) fn pin(&self, digest: &str) -> PathBuf {
        self.path.join(format!("{digest}{PIN_SUFFIX}"))
    }

    /// The blobs that have a media file or a record.
    pub(super) fn digests(&self) -> io::Result<Vec<String>> {
        let mut found = BTreeSet::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str() else { continue };
            let finished = name.strip_suffix(UNFINISHED_SUFFIX).unwrap_or(name);
            let digest = finished.strip_suffix(RECORD_SUFFIX).unwrap_or(finished);
            if is_digest(digest) {
                found.insert(digest.to_owned());
            }
        }
        Ok(found.into_iter().collect())
    }
}

/// Locks a directory of blobs. Blocks for as long as somebody opens or removes one.
pub(super) fn lock(dir: &Path) -> io::Result<DirectoryLock> {
    let handle = File::open(dir)?;
    handle.lock()?;
    Ok(DirectoryLock { _handle: handle })
}

/// The user's own cache directory.
fn home_cache() -> Option<PathBuf> {
    let absolute = |name| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    match absolute("XDG_CACHE_HOME") {
        Some(caches) => Some(caches.join("obd")),
        None => Some(absolute("HOME")?.join(".cache/obd/registry")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_are_names_of_blobs() {
        let hex = "0123456789abcdef".repeat(4);
        assert!(is_digest(&format!("sha256:{hex}")));
        assert!(is_digest(&format!("sha512:{hex}{hex}")));
        for name in [
            "",
            "usage",
            "sha256:",
            "sha256:../x",
            &format!("sha256:{}", hex.to_uppercase()),
            &format!("sha256:{hex}.chunks"),
            &format!("md5:{hex}"),
        ] {
            assert!(!is_digest(name), "{name}");
        }
    }

    #[test]
    fn a_listing_has_each_blob_once_and_no_foreign_names() {
        let temp = tempfile::tempdir().unwrap();
        let digest = format!("sha256:{}", "a".repeat(64));
        let other = format!("sha256:{}", "b".repeat(64));
        for name in [
            &digest,
            &format!("{digest}.chunks"),
            &format!("{other}.chunks"),
            "cache_media",
            "notes",
        ] {
            std::fs::write(temp.path().join(name), "x").unwrap();
        }
        let directory = Directory::open(temp.path()).unwrap();
        assert_eq!(directory.digests().unwrap(), [digest, other]);
    }
}
