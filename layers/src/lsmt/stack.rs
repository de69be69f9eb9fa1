//! Layers stacked into one address space with one merged index.
//!
//! image -> **lsmt stack** -> zfile
//!
//! Invariants
//! - `sources[tag]` holds the data of every mapping with that tag; 0 is the top layer.
//! - a read of a hole or a zeroed range gives zeros; so does anything beyond the last mapping.
//!
//! Source: format reference 1.5, 1.10.

use std::sync::Arc;

use super::index::Index;
use super::layer::Layer;
use super::mapping::SectorRange;
use super::overlay::merge_layers;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{LAYERS_MAX, SECTOR_BYTES};
use crate::read_at::{Progress, ReadAt, Wait};

/// A merged stack of sealed layers.
#[derive(Debug)]
pub struct Stack {
    index: Index,
    sources: Vec<Arc<dyn ReadAt>>,
    virtual_size_bytes: u64,
}

impl Stack {
    /// Stacks layers given bottom first, as a config lists them.
    ///
    /// # Errors
    /// `Config` for no layer or more than 255; `Unsupported` when the merged index is too large;
    /// `Corrupt` for a virtual size that is no multiple of 512.
    pub fn new(bottom_first: Vec<Layer>) -> Result<Self> {
        const OP: &str = "stack layers";
        let count = bottom_first.len();
        // One more than lowers are allowed: a writable layer that is only read.
        if count == 0 || count > LAYERS_MAX + 1 {
            let detail =
                format!("{count} layers, an image has 1 to {LAYERS_MAX} and a writable one");
            return Err(Error::new(ErrorKind::Config, OP, detail));
        }
        let mut virtual_size_bytes = 0;
        let (mut sources, mut indexes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (layer, tag) in bottom_first.into_iter().rev().zip(0_u8..=u8::MAX) {
            if virtual_size_bytes == 0 {
                virtual_size_bytes = checked_virtual_size(&layer)?;
            }
            let (source, mappings) = layer.into_parts();
            indexes.push(
                mappings
                    .into_iter()
                    .map(|mapping| mapping.with_tag(tag))
                    .collect(),
            );
            sources.push(Arc::from(source));
        }
        let index = Index::new(merge_layers(indexes)?);
        Ok(Self {
            index,
            sources,
            virtual_size_bytes,
        })
    }

    /// This stack with `top` on it. Both share the files below.
    ///
    /// # Errors
    /// As [`Stack::new`].
    pub fn with_top(&self, top: Layer) -> Result<Self> {
        const OP: &str = "stack layers";
        if self.sources.len() >= LAYERS_MAX {
            let detail = format!("the image has {LAYERS_MAX} layers, no more are allowed");
            return Err(Error::new(ErrorKind::Config, OP, detail));
        }
        let own_size = checked_virtual_size(&top)?;
        let (source, mappings) = top.into_parts();
        let below = self.index.mappings().iter();
        let below = below.map(|mapping| mapping.with_tag(mapping.tag().saturating_add(1)));
        let index = Index::new(merge_layers(vec![mappings, below.collect()])?);
        let sources = std::iter::once(Arc::from(source)).chain(self.sources.iter().cloned());
        Ok(Self {
            index,
            sources: sources.collect(),
            virtual_size_bytes: match own_size {
                0 => self.virtual_size_bytes,
                size => size,
            },
        })
    }

    /// The virtual size of the topmost layer that has one, in bytes.
    #[must_use]
    pub fn virtual_size_bytes(&self) -> u64 {
        self.virtual_size_bytes
    }

    /// Number of layers.
    #[must_use]
    pub fn layer_count(&self) -> usize {
        self.sources.len()
    }

    /// The decoded bytes of layer `number`, counted from the bottom, as a config lists them.
    #[must_use]
    pub fn source(&self, number: usize) -> Option<&dyn ReadAt> {
        self.sources.iter().rev().nth(number).map(AsRef::as_ref)
    }

    /// The number, counted from the bottom, of the layer that mappings with `tag` belong to.
    #[must_use]
    pub fn number_of(&self, tag: u8) -> Option<usize> {
        self.layer_count().checked_sub(usize::from(tag) + 1)
    }

    /// The merged index.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Fills `dest` with the bytes at `offset_bytes`; both in whole sectors.
    ///
    /// # Errors
    /// `OutOfRange` for an unaligned read or one beyond the largest address; else from below.
    #[inline]
    pub fn read_at(&self, offset_bytes: u64, mut dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        let range = sector_range(offset_bytes, dest.len())?;
        let mut position = range.start;
        for mapping in self.index.lookup(range) {
            zero_sectors(&mut dest, mapping.offset() - position);
            position = mapping.end();
            let mut part = take_sectors(&mut dest, mapping.sectors());
            if mapping.is_zeroed() {
                part.zero();
                continue;
            }
            let Some(source) = self.sources.get(usize::from(mapping.tag())) else {
                let detail = format!(
                    "mapping names layer {} of {}",
                    mapping.tag(),
                    self.layer_count()
                );
                return Err(Error::corrupt("read image", detail).at(offset_bytes));
            };
            match source.read_at(mapping.moffset() * SECTOR_BYTES, part, wait)? {
                Progress::Done => {}
                Progress::Pending => return Ok(Progress::Pending),
            }
        }
        dest.zero();
        Ok(Progress::Done)
    }
}

fn checked_virtual_size(layer: &Layer) -> Result<u64> {
    let size = layer.trailer().virtual_size_bytes;
    if size.is_multiple_of(SECTOR_BYTES) {
        return Ok(size);
    }
    let detail = format!("virtual size {size} is no multiple of {SECTOR_BYTES}");
    Err(Error::corrupt("stack layers", detail).in_file(layer.source().name()))
}

pub(super) fn sector_range(offset_bytes: u64, len: usize) -> Result<SectorRange> {
    let len = len as u64;
    let aligned = offset_bytes.is_multiple_of(SECTOR_BYTES) && len.is_multiple_of(SECTOR_BYTES);
    match offset_bytes.checked_add(len) {
        Some(end) if aligned => Ok(SectorRange {
            start: offset_bytes / SECTOR_BYTES,
            end: end / SECTOR_BYTES,
        }),
        _ => {
            let detail = format!("{len} bytes wanted, not a range of whole sectors");
            Err(Error::new(ErrorKind::OutOfRange, "read image", detail).at(offset_bytes))
        }
    }
}

/// Splits off what `sectors` cover; they are part of a range that was a `usize` of bytes.
pub(super) fn take_sectors<'a>(dest: &mut Dest<'a>, sectors: u64) -> Dest<'a> {
    let bytes = usize::try_from(sectors * SECTOR_BYTES).unwrap_or(usize::MAX);
    dest.take_front(bytes)
}

fn zero_sectors(dest: &mut Dest<'_>, sectors: u64) {
    if sectors > 0 {
        take_sectors(dest, sectors).zero();
    }
}
