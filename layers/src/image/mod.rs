//! One disk: a stack of layers as a guest sees it.
//!
//! guest request -> ring -> **image** -> lsmt -> zfile -> tar -> io

use std::path::Path;

use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Progress, Wait};

/// An open read-only image. Cheap to share behind an `Arc`; all reads take `&self`.
#[derive(Debug)]
pub struct Image {
    virtual_size: u64,
}

impl Image {
    /// Opens the image that `config_path` (a `config.v1.json`) describes and writes its result file.
    ///
    /// # Errors
    /// `Config` for a bad config, anything from below for a bad layer.
    pub fn open(config_path: &Path) -> Result<Self> {
        let detail = "stub";
        Err(Error::new(ErrorKind::Unsupported, "open image", detail)
            .in_file(config_path.display().to_string()))
    }

    /// Size of the disk in bytes, a multiple of 512.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Number of read-only layers.
    #[must_use]
    pub fn layer_count(&self) -> usize {
        0
    }

    /// Up to 20 ASCII characters that name the content: the serial a guest sees by default.
    #[must_use]
    pub fn identity(&self) -> String {
        String::new()
    }

    /// Fills `dest` with the disk's bytes at `offset`. Both must be multiples of 512.
    /// Holes and everything beyond [`Image::virtual_size`] read as zeros.
    ///
    /// # Errors
    /// `OutOfRange` for unaligned requests; `Corrupt` and `Io` from a layer.
    pub fn read_at(&self, offset: u64, mut dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        let _ = (offset, wait);
        dest.zero();
        Ok(Progress::Done)
    }
}
