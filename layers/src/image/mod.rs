//! One disk: a stack of layers as a guest sees it.
//!
//! guest request -> ring -> **image** -> lsmt -> zfile -> tar -> io
//!
//! Invariants
//! - an image that opened can serve every sector of its virtual size: all structures were
//!   checked, data blocks are checked as they are read.
//! - reads take `&self`, no lock across I/O, and allocate nothing once a thread's buffers are warm.
//!
//! Source: format reference 4.2, 4.3.

mod lower;
mod open;
mod remote;
mod result_file;
mod snapshot;
mod writable;

pub use lower::lower_path;
pub use open::{layer_configs, open_apart};
use remote::Purpose;
pub use result_file::refuse;
use writable::Writable;

use std::path::Path;
use std::sync::Arc;

use crate::config::{ImageConfig, UpperConfig};
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::io::Access;
use crate::lsmt::{Layer, Stack, Upper, Uuid, WriteBatch};
use crate::metrics::Journal;
use crate::read_at::{Progress, Wait};
use crate::service::Service;

/// Longest serial a virtio-blk guest can see.
const IDENTITY_CHARS: usize = 20;

/// An open image. Cheap to share behind an `Arc`; all reads and writes take `&self`.
#[derive(Debug)]
pub struct Image {
    layers: Layers,
    identity: String,
    /// What goes on behind the disk; `None` for one made of open layers.
    background: Option<remote::Background>,
}

#[derive(Debug)]
enum Layers {
    ReadOnly(Arc<Stack>),
    Writable(Writable),
}

impl Image {
    /// Opens the image that `config_path` (a `config.v1.json`) describes and writes its result
    /// file. Blocking; layers are opened in parallel. With [`Access::Read`] a writable layer is
    /// one more layer that is only read.
    ///
    /// # Errors
    /// `Config` for a bad config, `Unsupported` for what this version cannot do, anything from
    /// below for a bad layer.
    pub fn open(config_path: &Path, service: &Service, access: Access) -> Result<Self> {
        if access == Access::Write
            && let Err(error) = snapshot::finish(config_path)
        {
            // Somebody may wait for the file.
            if let Err(error) = refuse(config_path, &error.to_string()) {
                log::warn!("{error}");
            }
            return Err(error);
        }
        let config = ImageConfig::load(config_path)?;
        let name = config_path.display().to_string();
        result_file::check(config_path, &config)?;
        let opened = open::open_image(&config, service, access, Purpose::Serve);
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

    /// As [`Image::open`] for a config that was already read, for tools: writes no result file,
    /// neither records nor replays a trace.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_layers(config: &ImageConfig, service: &Service, access: Access) -> Result<Self> {
        open::open_image(config, service, access, Purpose::Inspect)
            .map_err(open::OpenFailure::into_error)
    }

    /// Stacks layers that are already open, bottom first. `digest` names the top layer when it
    /// came by one.
    ///
    /// # Errors
    /// As [`Stack::new`].
    pub fn from_layers(bottom_first: Vec<Layer>, digest: &str) -> Result<Self> {
        let top_uuid = bottom_first.last().map(|layer| layer.trailer().uuid);
        let identity = identity(digest, top_uuid.unwrap_or_default());
        Ok(Self {
            layers: Layers::ReadOnly(Arc::new(Stack::new(bottom_first)?)),
            identity,
            background: None,
        })
    }

    /// Puts a writable layer on top of layers that are already open, bottom first; none is fine.
    /// A writable layer without a size takes that of the layers below, and keeps it.
    ///
    /// # Errors
    /// As [`Stack::new`]; `Config` for a disk of no bytes; `NoSpace` and `Io` when the size cannot be
    /// kept.
    pub fn with_upper(bottom_first: Vec<Layer>, upper: Upper) -> Result<Self> {
        let below = match bottom_first.is_empty() {
            true => None,
            false => Some(Arc::new(Stack::new(bottom_first)?)),
        };
        let writable = Writable::new(below, upper)?;
        if writable.virtual_size_bytes() == 0 {
            let detail = "no layer has a size: create the writable one with the size of the disk";
            return Err(Error::new(ErrorKind::Config, "open image", detail));
        }
        Ok(Self {
            identity: identity("", writable.uuid()),
            layers: Layers::Writable(writable),
            background: None,
        })
    }

    /// Size of the disk in bytes, a multiple of 512.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        match &self.layers {
            Layers::ReadOnly(stack) => stack.virtual_size_bytes(),
            Layers::Writable(writable) => writable.virtual_size_bytes(),
        }
    }

    /// Number of layers, the writable one included.
    #[must_use]
    pub fn layer_count(&self) -> usize {
        match &self.layers {
            Layers::ReadOnly(stack) => stack.layer_count(),
            Layers::Writable(writable) => writable.layer_count(),
        }
    }

    /// Up to 20 ASCII characters that name the content: from the top layer's digest, or else its
    /// uuid. An image that has neither is named after its config's path, or not at all.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// The layers that are never written.
    fn read_only_stack(&self) -> Option<Arc<Stack>> {
        match &self.layers {
            Layers::ReadOnly(stack) => Some(Arc::clone(stack)),
            Layers::Writable(writable) => writable.below(),
        }
    }

    /// How its reads went, as far as they were remote.
    #[must_use]
    pub fn journal(&self) -> Option<&Arc<Journal>> {
        self.background.as_ref().map(remote::Background::journal)
    }

    /// The merged layers, for tools that walk the index; `None` while they may change.
    #[must_use]
    pub fn stack(&self) -> Option<&Stack> {
        match &self.layers {
            Layers::ReadOnly(stack) => Some(stack),
            Layers::Writable(_) => None,
        }
    }

    /// Fills `dest` with the disk's bytes at `offset`. Both must be multiples of 512.
    /// Holes and everything beyond [`Image::virtual_size`] read as zeros.
    ///
    /// # Errors
    /// `OutOfRange` for unaligned requests; `Corrupt` and `Io` from a layer.
    #[inline]
    pub fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        match &self.layers {
            Layers::ReadOnly(stack) => stack.read_at(offset, dest, wait),
            Layers::Writable(writable) => writable.read_at(offset, dest, wait),
        }
    }

    /// Can the disk be written?
    #[must_use]
    pub fn is_writable(&self) -> bool {
        matches!(self.layers, Layers::Writable(_))
    }

    fn writable(&self) -> Result<&Writable> {
        match &self.layers {
            Layers::Writable(writable) => Ok(writable),
            Layers::ReadOnly(_) => {
                let detail = "the image has no writable layer";
                Err(Error::new(ErrorKind::ReadOnly, "write image", detail))
            }
        }
    }

    /// Hands `data` for the bytes at `offset` to the writable layer. Both are whole sectors inside
    /// the disk. Readers may see it from now on; it counts as written once `batch` is committed,
    /// and only then may the guest be told. With [`Wait::Never`] it comes back `Pending`, with
    /// nothing staged, when it would have to wait for something else than the page cache.
    ///
    /// # Errors
    /// `ReadOnly`; `OutOfRange`; `NoSpace` and `Io` from the file. What was staged before stays so; of
    /// this write any part may be there.
    pub fn stage_write(
        &self,
        batch: &mut WriteBatch,
        offset: u64,
        data: &[u8],
        wait: Wait,
    ) -> Result<Progress> {
        self.writable()?.stage_write(batch, offset, data, wait)
    }

    /// As [`Image::stage_write`] for `len` zeros, which take no space where the layer can help it.
    /// Serves discards as well: what was discarded reads as zeros.
    ///
    /// # Errors
    /// As [`Image::stage_write`].
    pub fn stage_zeroes(
        &self,
        batch: &mut WriteBatch,
        offset: u64,
        len: u64,
        wait: Wait,
    ) -> Result<Progress> {
        self.writable()?.stage_zeroes(batch, offset, len, wait)
    }

    /// Makes everything in `batch` survive a crash of this process, and empties it. Does not wait
    /// for the device.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: then none of the batch counts as written.
    pub fn commit(&self, batch: &mut WriteBatch) -> Result<()> {
        self.writable()?.commit(batch)
    }

    /// Makes everything that was committed before survive a power cut. Blocks for the device.
    /// Nothing to do for a read-only image.
    ///
    /// # Errors
    /// `NoSpace`, `Io`. When the kernel could not write something back, all later calls fail too,
    /// until the image is opened again.
    pub fn flush(&self) -> Result<()> {
        match &self.layers {
            Layers::ReadOnly(_) => Ok(()),
            Layers::Writable(writable) => writable.flush(),
        }
    }

    /// Makes the disk larger; that survives a power cut. Blocking.
    ///
    /// # Errors
    /// `ReadOnly`; as [`Upper::grow`].
    pub fn grow(&self, bytes: u64) -> Result<()> {
        self.writable()?.grow(bytes)
    }

    /// A snapshot of the running disk: seals the writable layer in place, puts it below, and goes
    /// on with the layer `new`, which is made already and gives the disk its size. Waits for
    /// writes that are staged; blocks.
    ///
    /// # Errors
    /// `ReadOnly`; `Config` for a new layer that is not empty, or smaller than the disk; as [`Upper::open`] and
    /// [`Upper::seal`]. The disk goes on as it was then.
    pub fn restack(&self, new: &UpperConfig) -> Result<()> {
        self.restack_then(new, &mut || Ok(()))
    }

    /// As [`Image::restack`]; does `publish` when the old layer is sealed and before anybody writes to the
    /// new one. When that fails nothing has happened.
    fn restack_then(
        &self,
        new: &UpperConfig,
        publish: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        self.writable()?.restack(new, publish)
    }

    /// Writes a slice, blocking: staged and committed.
    ///
    /// # Errors
    /// As [`Image::stage_write`] and [`Image::commit`].
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut batch = WriteBatch::default();
        self.stage_write(&mut batch, offset, data, Wait::UntilDone)?
            .expect_done("write image")?;
        self.commit(&mut batch)
    }

    /// Writes `len` zeros, blocking: staged and committed.
    ///
    /// # Errors
    /// As [`Image::stage_zeroes`] and [`Image::commit`].
    pub fn write_zeroes_at(&self, offset: u64, len: u64) -> Result<()> {
        let mut batch = WriteBatch::default();
        self.stage_zeroes(&mut batch, offset, len, Wait::UntilDone)?
            .expect_done("write image")?;
        self.commit(&mut batch)
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
