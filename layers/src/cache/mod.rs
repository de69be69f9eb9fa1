//! Parts of blobs that are kept on this host.
//!
//! image -> lsmt -> zfile -> tar -> **cache** -> registry
//!
//! Source: format reference 7; docs/cache.md.

mod patience;

pub use patience::Patience;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::audit::Audit;
use crate::config::CacheConfig;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Journal, Metrics};
use crate::range_source::{RangeSource, Urgency};
use crate::read_at::{Progress, ReadAt, Wait};

/// A cache directory, shared with other processes.
#[derive(Debug)]
pub struct Cache {}

/// Where the file of a blob is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the cache directory, under the blob's digest.
    Shared,
    /// As `.download` in a layer's own directory, out of the cache's limits.
    Layer(PathBuf),
}

/// What a cached blob is and for whom it is read.
#[derive(Debug, Clone)]
pub struct BlobUse {
    /// `sha256:...`
    pub digest: String,
    /// Where it is kept.
    pub place: Place,
    /// How long its reads wait for the origin.
    pub patience: Arc<Patience>,
    /// Whose reads they are.
    pub journal: Arc<Journal>,
}

impl Cache {
    /// Opens or creates the directory.
    ///
    /// # Errors
    /// `Io`, `NoSpace`; `Config` for a size that makes no sense.
    pub fn open(
        _config: &CacheConfig,
        _metrics: &Arc<Metrics>,
        _audit: &Arc<Audit>,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {}))
    }

    /// The blob behind `source` as a file. Asks the source for its size if need be; blocks.
    ///
    /// # Errors
    /// Those of the source, `Io`.
    pub fn blob(
        self: &Arc<Self>,
        source: Arc<dyn RangeSource>,
        wanted: BlobUse,
    ) -> Result<CachedBlob> {
        let size = source.size(wanted.patience.deadline())?;
        Ok(CachedBlob {
            source,
            wanted,
            size,
        })
    }
}

/// A blob, kept as far as it was read.
#[derive(Debug)]
pub struct CachedBlob {
    source: Arc<dyn RangeSource>,
    wanted: BlobUse,
    size: u64,
}

impl CachedBlob {
    /// Has these bytes fetched and kept, unless they are here. Blocks until they are, or could not be kept.
    ///
    /// # Errors
    /// Those of the source.
    pub fn prefetch(&self, _range: Range<u64>, _urgency: Urgency) -> Result<()> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "prefetch",
            "not built yet",
        ))
    }

    /// Fills `buf` if all its bytes are kept here and right; false when they are not. May wait for the
    /// host's disk, never for the origin.
    ///
    /// # Errors
    /// `Io`.
    pub fn read_if_present(&self, _offset: u64, _buf: &mut [u8]) -> Result<bool> {
        Ok(false)
    }

    /// Bytes of the blob that are kept here now.
    #[must_use]
    pub fn present_bytes(&self) -> u64 {
        0
    }
}

impl ReadAt for CachedBlob {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &str {
        &self.wanted.digest
    }

    fn read_at(&self, offset: u64, mut dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        if wait == Wait::Never {
            return Ok(Progress::Pending);
        }
        let range = offset..offset + dest.len() as u64;
        let deadline = self.wanted.patience.deadline();
        self.source
            .fetch(range, Urgency::Guest, deadline, &mut |bytes| {
                let copied = dest.copy_from(bytes);
                drop(dest.take_front(copied));
                Ok(())
            })?;
        Ok(Progress::Done)
    }
}
