//! What an operator does with a cache directory, also while daemons use it.
//!
//! `obd cache` -> **admin** -> kept blob, evict
//!
//! Source: docs/cache.md.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::{self, Directory, is_digest};
use super::kept_blob::{self, KeptBlob};
use super::room::{Limits, Room};
use crate::audit::Audit;
use crate::config::CacheConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metrics;

/// One blob of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobReport {
    /// `sha256:...`
    pub digest: String,
    /// Size of the blob in bytes; `None` when it has no usable record, so that nothing of it can be read.
    pub blob_bytes: Option<u64>,
    /// Bytes of it that are kept.
    pub present_bytes: u64,
    /// Bytes that its files take on the disk.
    pub disk_bytes: u64,
    /// Seconds since 1970 when it was read last; 0 = not known.
    pub last_use: u32,
    /// Does a process have it open?
    pub is_in_use: bool,
    /// Is it exempt from eviction?
    pub is_pinned: bool,
}

/// What a check of a blob has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobCheck {
    /// `sha256:...`
    pub digest: String,
    /// Bytes that were read and compared with their checksums.
    pub checked_bytes: u64,
    /// Blocks of 4 KiB that were damaged, and are fetched again when they are read.
    pub dropped_blocks: u64,
}

/// How full a cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that its files take on the disk.
    pub disk_bytes: u64,
    /// Most bytes that it may take.
    pub limit_bytes: u64,
    /// Blobs in it.
    pub blobs: u64,
}

/// A cache directory that exists. All calls block.
#[derive(Debug)]
pub struct Admin {
    directory: Directory,
    config: CacheConfig,
}

impl Admin {
    /// The directory that `config` leads to.
    ///
    /// # Errors
    /// As [`Cache::open`](super::Cache::open).
    pub fn open(config: &CacheConfig) -> Result<Self> {
        Ok(Self {
            directory: Directory::open_configured(config)?,
            config: config.clone(),
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Its blobs, by digest.
    ///
    /// # Errors
    /// `Io`.
    pub fn list(&self) -> Result<Vec<BlobReport>> {
        let digests = self.digests()?;
        digests
            .into_iter()
            .map(|digest| self.report(digest))
            .collect()
    }

    fn report(&self, digest: String) -> Result<BlobReport> {
        let files = self.directory.blob(&digest);
        let kept = self.open_blob(&digest)?;
        let kept = kept.as_ref();
        let last_use = |kept: &KeptBlob| {
            let chunks = 0..kept.layout().chunks();
            chunks.map(|chunk| kept.record.last_use(chunk)).max()
        };
        Ok(BlobReport {
            blob_bytes: kept.map(|kept| kept.layout().blob_bytes),
            present_bytes: kept.map_or(0, |kept| kept.record.present_bytes()),
            disk_bytes: KeptBlob::disk_bytes(&files),
            last_use: kept.and_then(last_use).unwrap_or(0),
            is_in_use: kept.is_some_and(|kept| kept.record.is_in_use()),
            is_pinned: self.directory.pin(&digest).exists(),
            digest,
        })
    }

    /// How full it is.
    ///
    /// # Errors
    /// `Io`.
    pub fn usage(&self) -> Result<Usage> {
        let digests = self.digests()?;
        let each = digests
            .iter()
            .map(|digest| KeptBlob::disk_bytes(&self.directory.blob(digest)));
        Ok(Usage {
            disk_bytes: each.sum(),
            limit_bytes: self.config.size_bytes(),
            blobs: digests.len() as u64,
        })
    }

    /// Evicts down to the configured limits, if it is above them, and counts its bytes anew. Returns the
    /// bytes given back.
    ///
    /// # Errors
    /// `Io`; `Busy` while another process evicts.
    pub fn collect(&self) -> Result<u64> {
        let directory = Directory::open(self.path())?;
        let limits = Limits::new(&self.config);
        let room = Room::new(
            directory,
            limits,
            &Arc::<Metrics>::default(),
            &Arc::<Audit>::default(),
        )?;
        room.evict_now().map_err(|error| error.in_file(self.name()))
    }

    /// Compares every kept block of every blob with its checksum. Damaged ones are dropped; whoever reads
    /// them next fetches them again. `progress` is told of each blob.
    ///
    /// # Errors
    /// `Io`.
    pub fn verify(&self, progress: &mut dyn FnMut(&BlobCheck)) -> Result<Vec<BlobCheck>> {
        let mut checks = Vec::new();
        for digest in self.digests()? {
            let Some(kept) = self.open_blob(&digest)? else {
                continue;
            };
            let (checked_bytes, dropped_blocks) = kept.verify_all();
            let check = BlobCheck {
                digest,
                checked_bytes,
                dropped_blocks,
            };
            progress(&check);
            checks.push(check);
        }
        Ok(checks)
    }

    /// Removes all blobs that nobody has open and that are not pinned. Returns the bytes given back and
    /// the digests of those that stay.
    ///
    /// # Errors
    /// `Io`.
    pub fn clear(&self) -> Result<(u64, Vec<String>)> {
        let mut bytes = 0;
        let mut staying = Vec::new();
        for digest in self.digests()? {
            let files = self.directory.blob(&digest);
            let _lock = self.lock()?;
            let is_in_use = kept_blob::is_in_use(&files);
            if is_in_use || self.directory.pin(&digest).exists() {
                staying.push(digest);
                continue;
            }
            bytes += KeptBlob::disk_bytes(&files);
            kept_blob::remove(&files)?;
        }
        Ok((bytes, staying))
    }

    /// Exempts a blob from eviction, also one that is not here yet.
    ///
    /// # Errors
    /// `Config` for a digest that is none; `Io`.
    pub fn pin(&self, digest: &str) -> Result<()> {
        let path = self.pin_path(digest)?;
        File::create(&path)
            .map(drop)
            .map_err(|source| Error::io("pin blob", source).in_file(path.display().to_string()))
    }

    /// Undoes [`Admin::pin`].
    ///
    /// # Errors
    /// `NotFound` when it is not pinned; `Config`, `Io`.
    pub fn unpin(&self, digest: &str) -> Result<()> {
        let path = self.pin_path(digest)?;
        std::fs::remove_file(&path).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, "unpin blob", "it is not pinned").in_file(digest)
            }
            _ => Error::io("unpin blob", source).in_file(path.display().to_string()),
        })
    }

    fn pin_path(&self, digest: &str) -> Result<PathBuf> {
        if is_digest(digest) {
            return Ok(self.directory.pin(digest));
        }
        let detail = format!("{digest:.80?} is not a digest such as sha256:<64 hex digits>");
        Err(Error::new(ErrorKind::Config, "pin blob", detail))
    }

    fn digests(&self) -> Result<Vec<String>> {
        let fail = |source| Error::io("list cache directory", source).in_file(self.name());
        self.directory.digests().map_err(fail)
    }

    fn name(&self) -> String {
        self.path().display().to_string()
    }

    fn lock(&self) -> Result<directory::DirectoryLock> {
        let fail = |source| Error::io("lock cache directory", source).in_file(self.name());
        directory::lock(self.path()).map_err(fail)
    }

    fn open_blob(&self, digest: &str) -> Result<Option<KeptBlob>> {
        let _lock = self.lock()?;
        KeptBlob::open_readable(&self.directory.blob(digest))
    }
}
