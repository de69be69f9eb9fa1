//! One disk: a stack of layers as a guest sees it.
//!
//! guest request -> ring -> **image** -> lsmt -> zfile -> tar -> io
//!
//! Invariants
//! - an image that opened can serve every sector of its virtual size: all structures were
//!   checked, data blocks are checked as they are read.
//! - reads take `&self`, no lock, and allocate nothing once a thread's buffers are warm.
//!
//! Source: format reference 4.2, 4.3.

mod lower;
mod open;
mod result_file;

pub use lower::lower_path;
pub use open::layer_configs;

use std::path::Path;

use crate::config::{ImageConfig, ServiceConfig};
use crate::dest::Dest;
use crate::error::Result;
use crate::lsmt::{SealedLayer, Stack, Uuid};
use crate::read_at::{Progress, Wait};

/// Longest serial a virtio-blk guest can see.
const IDENTITY_CHARS: usize = 20;

/// An open read-only image. Cheap to share behind an `Arc`; all reads take `&self`.
#[derive(Debug)]
pub struct Image {
    stack: Stack,
    identity: String,
}

impl Image {
    /// Opens the image that `config_path` (a `config.v1.json`) describes and writes its result
    /// file. Blocking; layers are opened in parallel.
    ///
    /// # Errors
    /// `Config` for a bad config, `Unsupported` for what this version cannot do, anything from
    /// below for a bad layer.
    pub fn open(config_path: &Path, service: &ServiceConfig) -> Result<Self> {
        let config = ImageConfig::load(config_path)?;
        let name = config_path.display().to_string();
        result_file::check(config_path, &config)?;
        let opened = open::open_image(&config, service);
        if let Err(error) = result_file::write(&config.result_file, &opened) {
            // Whoever waits for the file will not see it, but the disk itself is right.
            log::warn!("{error}");
        }
        let mut image = opened.map_err(|failure| failure.into_error().in_file(&name))?;
        if image.identity.is_empty() {
            // Better than none: a guest can tell its disks apart.
            image.identity = format!("obd-{:08x}", crc32c::crc32c(name.as_bytes()));
        }
        Ok(image)
    }

    /// As [`Image::open`] for a config that was already read; writes no result file.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_layers(config: &ImageConfig, service: &ServiceConfig) -> Result<Self> {
        open::open_image(config, service).map_err(open::OpenFailure::into_error)
    }

    /// Stacks layers that are already open, bottom first. `digest` names the top layer when it
    /// came by one.
    ///
    /// # Errors
    /// As [`Stack::new`].
    pub fn from_layers(bottom_first: Vec<SealedLayer>, digest: &str) -> Result<Self> {
        let top_uuid = bottom_first.last().map(|layer| layer.trailer().uuid);
        let identity = identity(digest, top_uuid.unwrap_or_default());
        Ok(Self {
            stack: Stack::new(bottom_first)?,
            identity,
        })
    }

    /// Size of the disk in bytes, a multiple of 512.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        self.stack.virtual_size_bytes()
    }

    /// Number of read-only layers.
    #[must_use]
    pub fn layer_count(&self) -> usize {
        self.stack.layer_count()
    }

    /// Up to 20 ASCII characters that name the content: from the top layer's digest, or else its
    /// uuid. An image that has neither is named after its config's path, or not at all.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The merged layers, for tools that walk the index.
    #[must_use]
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// Fills `dest` with the disk's bytes at `offset`. Both must be multiples of 512.
    /// Holes and everything beyond [`Image::virtual_size`] read as zeros.
    ///
    /// # Errors
    /// `OutOfRange` for unaligned requests; `Corrupt` and `Io` from a layer.
    #[inline]
    pub fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        self.stack.read_at(offset, dest, wait)
    }

    /// Fills a slice, blocking. For tools.
    ///
    /// # Errors
    /// As [`Image::read_at`].
    pub fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read_at(offset, Dest::from(buf), Wait::UntilDone)?
            .expect_done("read image")
    }
}

/// The first characters of the digest, or else of the uuid; empty when there is neither.
fn identity(digest: &str, uuid: Uuid) -> String {
    let name = match digest.trim_start_matches("sha256:") {
        "" if uuid.is_nil() => String::new(),
        "" => uuid.to_string().to_lowercase(),
        hex => hex.to_owned(),
    };
    name.chars()
        .filter(char::is_ascii_alphanumeric)
        .take(IDENTITY_CHARS)
        .collect()
}
