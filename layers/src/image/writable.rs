//! A disk that is written: layers that are only read, and a writable one on top.
//!
//! image -> **writable** -> lsmt upper, lsmt stack
//!
//! Invariants
//! - from the first write that is staged in a batch until the batch is committed the layers stay
//!   the same: whoever replaces them closes the gate first.
//! - readers keep the layers that they began with.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use crate::config::UpperConfig;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::io::LocalFile;
use crate::limits::SECTOR_BYTES;
use crate::lsmt::upper::{Gate, Upper, WriteBatch};
use crate::lsmt::{Layer, SectorRange, Stack, Uuid};
use crate::read_at::{Progress, Wait};

/// The layers of one moment.
#[derive(Debug)]
struct Layers {
    below: Option<Arc<Stack>>,
    upper: Upper,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Writable {
    layers: RwLock<Arc<Layers>>,
    gate: Arc<Gate>,
    virtual_size_bytes: AtomicU64,
    /// Held by whoever replaces the layers and more than that.
    replacing: Mutex<()>,
}

impl Writable {
    /// Stacks `upper` on `below`. An upper without a size takes that of the layers below, also in
    /// its files.
    pub(super) fn new(below: Option<Arc<Stack>>, upper: Upper) -> Result<Self> {
        if upper.virtual_size_bytes() == 0
            && let Some(below) = &below
        {
            upper.grow(below.virtual_size_bytes())?;
        }
        Ok(Self {
            virtual_size_bytes: AtomicU64::new(upper.virtual_size_bytes()),
            layers: RwLock::new(Arc::new(Layers { below, upper })),
            gate: Arc::default(),
            replacing: Mutex::new(()),
        })
    }

    /// Nobody else has got this until the result is dropped. Blocks.
    pub(super) fn hold_layers(&self) -> MutexGuard<'_, ()> {
        self.replacing
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn layers(&self) -> Arc<Layers> {
        Arc::clone(&self.layers.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn below(&self) -> Option<Arc<Stack>> {
        self.layers().below.clone()
    }

    pub(super) fn virtual_size_bytes(&self) -> u64 {
        self.virtual_size_bytes.load(Ordering::Acquire)
    }

    pub(super) fn layer_count(&self) -> usize {
        let layers = self.layers();
        layers.below.as_ref().map_or(0, |below| below.layer_count()) + 1
    }

    pub(super) fn uuid(&self) -> Uuid {
        self.layers().upper.uuid()
    }

    /// The data file of the layer that is written now; `None` when it has no path.
    pub(super) fn upper_path(&self) -> Option<PathBuf> {
        self.layers().upper.data_path().map(Path::to_owned)
    }

    pub(super) fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        let layers = self.layers();
        let below = layers.below.as_deref();
        layers.upper.read_at(below, offset, dest, wait)
    }

    pub(super) fn stage_write(
        &self,
        batch: &mut WriteBatch,
        offset: u64,
        data: &[u8],
        wait: Wait,
    ) -> Result<Progress> {
        let range = self.range(offset, data.len() as u64)?;
        if !self.enter(batch, wait) {
            return Ok(Progress::Pending);
        }
        let layers = self.layers();
        let below = layers.below.as_deref();
        layers.upper.stage_write(below, batch, range, data, wait)
    }

    pub(super) fn stage_zeroes(
        &self,
        batch: &mut WriteBatch,
        offset: u64,
        len: u64,
        wait: Wait,
    ) -> Result<Progress> {
        let range = self.range(offset, len)?;
        if !self.enter(batch, wait) {
            return Ok(Progress::Pending);
        }
        let layers = self.layers();
        let below = layers.below.as_deref();
        layers.upper.stage_zeroes(below, batch, range, wait)
    }

    /// Lets the batch pass the gate, unless it has or may not wait.
    fn enter(&self, batch: &mut WriteBatch, wait: Wait) -> bool {
        if !batch.holds_pass() {
            let pass = match wait {
                Wait::UntilDone => Some(self.gate.enter()),
                Wait::Never => self.gate.try_enter(),
            };
            let Some(pass) = pass else { return false };
            batch.hold(pass);
        }
        true
    }

    pub(super) fn commit(&self, batch: &mut WriteBatch) -> Result<()> {
        let committed = match batch.holds_pass() {
            true => self.layers().upper.commit(batch),
            false => Ok(()),
        };
        batch.clear();
        committed
    }

    pub(super) fn flush(&self) -> Result<()> {
        self.layers().upper.flush()
    }

    pub(super) fn grow(&self, bytes: u64) -> Result<()> {
        // One at a time, and not while the layers change.
        let _nobody_writes = self.gate.close();
        self.layers().upper.grow(bytes)?;
        self.virtual_size_bytes.store(bytes, Ordering::Release);
        Ok(())
    }

    pub(super) fn restack(
        &self,
        new: &UpperConfig,
        publish: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let upper = Upper::open(&new.data, &new.index)?;
        let size = upper.virtual_size_bytes();
        // Most of it while others still write; then what they wrote in that time, which is little.
        self.flush()?;
        self.flush()?;
        let _nobody_writes = self.gate.close();
        let old = self.layers();
        let refuse = |detail: String| {
            let error = Error::new(ErrorKind::Config, "restack image", detail);
            Err(error.in_file(upper.data().name()))
        };
        if size < self.virtual_size_bytes() {
            let now = self.virtual_size_bytes();
            return refuse(format!(
                "the new layer has a size of {size}, the disk has {now}"
            ));
        }
        if !upper.is_empty() {
            return refuse("the new layer is not empty".to_owned());
        }
        let data_end = old.upper.seal()?;
        let below = stack_sealed(&old).and_then(|below| publish().map(|()| below));
        let below = below.inspect_err(|_| old.upper.unseal(data_end))?;
        let layers = Layers {
            below: Some(Arc::new(below)),
            upper,
        };
        *self.layers.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(layers);
        self.virtual_size_bytes.store(size, Ordering::Release);
        Ok(())
    }

    fn range(&self, offset: u64, len: u64) -> Result<SectorRange> {
        let whole = offset.is_multiple_of(SECTOR_BYTES) && len.is_multiple_of(SECTOR_BYTES);
        match offset.checked_add(len) {
            Some(end) if whole && end <= self.virtual_size_bytes() => Ok(SectorRange {
                start: offset / SECTOR_BYTES,
                end: end / SECTOR_BYTES,
            }),
            _ => {
                let size = self.virtual_size_bytes();
                let detail = format!("{len} bytes are not whole sectors of a disk of {size} bytes");
                Err(Error::new(ErrorKind::OutOfRange, "write image", detail).at(offset))
            }
        }
    }
}

fn stack_sealed(old: &Layers) -> Result<Stack> {
    let path = old.upper.data_path().unwrap_or(Path::new(""));
    let sealed = LocalFile::open(path)?;
    let sealed = Layer::open(Box::new(sealed))?;
    if sealed.trailer().uuid != old.upper.uuid() {
        let detail = "another file has taken the place of the layer that is written";
        let error = Error::new(ErrorKind::Config, "restack image", detail);
        return Err(error.in_file(path.display().to_string()));
    }
    match &old.below {
        Some(below) => below.with_top(sealed),
        None => Stack::new(vec![sealed]),
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            log::error!("what was written last may be lost: {error}");
        }
    }
}
