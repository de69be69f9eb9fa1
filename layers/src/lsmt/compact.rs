//! Layers become one layer, without what later writes have hidden.
//!
//! layers -> **lsmt compact** -> lsmt builder -> zfile builder -> tar writer -> file
//!
//! Commit, merge and flatten are the same copy of a sorted index and its data; they differ in
//! which layers they read and in whose header says what the result is. Output bytes are those of
//! the C++ tools. Data streams: memory holds the indexes, and one buffer a layer.
//!
//! Source: format reference 1.8, 1.10.

use std::io::Write;

use super::builder::{LayerBuilder, LayerOptions, LayerSummary, MAPPINGS_MAX};
use super::layer::Layer;
use super::mapping::Mapping;
use super::overlay::merge_layers;
use super::uuid::Uuid;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{LAYERS_MAX, SECTOR_BYTES};
use crate::read_at::ReadAt;

const OP: &str = "compact layers";

/// Data read at once: a multiple of the 32 KiB in which the builder makes entries.
const CHUNK_BYTES: usize = 1 << 20;

/// Neighbouring pieces that are smaller are read together. No zfile block is larger, so none is
/// decoded again for each small piece of it.
const WINDOW_BYTES: usize = 64 << 10;

/// What the result says about itself.
#[derive(Debug, Clone, Default)]
pub struct CompactOptions {
    /// Name of the result: those of its sources are not inherited.
    pub uuid: Uuid,
    /// Name of the layer below; `None` takes it from the sources.
    pub parent_uuid: Option<Uuid>,
    /// Free text, at most 256 bytes.
    pub user_tag: Vec<u8>,
}

impl CompactOptions {
    fn layer(&self, virtual_size_bytes: u64, parent_uuid: Uuid) -> LayerOptions {
        LayerOptions {
            virtual_size_bytes,
            uuid: self.uuid,
            parent_uuid: self.parent_uuid.unwrap_or(parent_uuid),
            user_tag: self.user_tag.clone(),
        }
    }
}

/// Writes the data of one layer to `sink` as a new layer. The virtual size is what the layer's
/// header says, 0 included. `progress` is told the bytes of data copied and those to copy. Blocks.
///
/// # Errors
/// `Config` for a user tag that is too long; `Unsupported` when it takes more mappings than a layer
/// has, neighbours joined: only data of all layers, exported and imported, may be less fragmented;
/// those of reading and writing.
pub fn commit<W: Write>(
    layer: &Layer,
    options: &CompactOptions,
    sink: W,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(W, LayerSummary)> {
    let header = layer.header();
    let options = options.layer(header.virtual_size_bytes, header.parent_uuid);
    copy(&[layer.source()], layer.mappings(), options, sink, progress)
}

/// Makes one layer of sealed ones, given bottom first. The virtual size is what the topmost header
/// that has one says; the entries on disk keep the depth of their source as tag. Blocks.
///
/// # Errors
/// As [`commit`]; `Config` for no layer or more than 255.
pub fn merge<W: Write>(
    bottom_first: Vec<Layer>,
    options: &CompactOptions,
    sink: W,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(W, LayerSummary)> {
    let stack = TopFirst::new(bottom_first)?;
    let options = options.layer(stack.virtual_size_bytes, stack.bottom_parent_uuid);
    copy(&stack.sources(), &stack.mappings, options, sink, progress)
}

/// Makes one layer of sealed ones, given bottom first and perhaps none, and a writable one on top.
/// The virtual size is that of [`merge`], or the writable layer's own where that is larger. Blocks.
///
/// # Errors
/// As [`merge`].
pub fn flatten<W: Write>(
    bottom_first: Vec<Layer>,
    upper: Layer,
    options: &CompactOptions,
    sink: W,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(W, LayerSummary)> {
    if bottom_first.is_empty() {
        return commit(&upper, options, sink, progress);
    }
    let mut stack = TopFirst::new(bottom_first)?;
    // A disk that was made larger stays so, although the C++ code forgets it here.
    let size = upper.trailer().virtual_size_bytes;
    let size = stack.virtual_size_bytes.max(size);
    // The C++ code lists the upper behind the lowers: that decides its tag and whose parent counts.
    let options = options.layer(size, upper.header().parent_uuid);
    stack.lay_over(upper)?;
    copy(&stack.sources(), &stack.mappings, options, sink, progress)
}

/// Layers with their indexes merged; a layer's place in the list is its tag.
struct TopFirst {
    sources: Vec<Box<dyn ReadAt>>,
    mappings: Vec<Mapping>,
    /// The topmost size that is known: a layer that inherits its size says 0.
    virtual_size_bytes: u64,
    bottom_parent_uuid: Uuid,
}

impl TopFirst {
    fn new(bottom_first: Vec<Layer>) -> Result<Self> {
        let count = bottom_first.len();
        if count == 0 || count > LAYERS_MAX {
            let detail = format!("{count} layers, expected 1 to {LAYERS_MAX}");
            return Err(Error::new(ErrorKind::Config, OP, detail));
        }
        let (mut sources, mut indexes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        let (mut virtual_size_bytes, mut bottom_parent_uuid) = (0, Uuid::NIL);
        for (layer, tag) in bottom_first.into_iter().rev().zip(0..=u8::MAX) {
            if virtual_size_bytes == 0 {
                virtual_size_bytes = layer.header().virtual_size_bytes;
            }
            bottom_parent_uuid = layer.header().parent_uuid;
            let (source, mappings) = layer.into_parts();
            sources.push(source);
            indexes.push(tagged(mappings, tag));
        }
        Ok(Self {
            sources,
            mappings: merge_layers(indexes)?,
            virtual_size_bytes,
            bottom_parent_uuid,
        })
    }

    fn lay_over(&mut self, upper: Layer) -> Result<()> {
        // At most 255 layers are here already.
        let tag = u8::try_from(self.sources.len()).unwrap_or(u8::MAX);
        let (source, mappings) = upper.into_parts();
        let lower = std::mem::take(&mut self.mappings);
        self.mappings = merge_layers(vec![tagged(mappings, tag), lower])?;
        self.sources.push(source);
        Ok(())
    }

    fn sources(&self) -> Vec<&dyn ReadAt> {
        self.sources.iter().map(|source| &**source).collect()
    }
}

fn tagged(mut mappings: Vec<Mapping>, tag: u8) -> Vec<Mapping> {
    for mapping in &mut mappings {
        *mapping = mapping.with_tag(tag);
    }
    mappings
}

/// Copies what `mappings` name from `sources[tag]`.
fn copy<W: Write>(
    sources: &[&dyn ReadAt],
    mappings: &[Mapping],
    options: LayerOptions,
    sink: W,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(W, LayerSummary)> {
    check_runs(mappings)?;
    let data = mappings.iter().filter(|mapping| !mapping.is_zeroed());
    let total = data.map(|mapping| mapping.sectors() * SECTOR_BYTES).sum();
    let mut builder = LayerBuilder::new(sink, options)?;
    let mut readers: Vec<_> = sources.iter().map(|source| Reader::new(*source)).collect();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut copied = 0;
    for mapping in mappings {
        let tag = mapping.tag();
        if mapping.is_zeroed() {
            builder.append_zeroed(mapping.offset(), mapping.sectors(), tag)?;
            continue;
        }
        let reader = readers.get_mut(usize::from(tag)).ok_or_else(|| {
            let detail = format!("a mapping names layer {tag} of {}", sources.len());
            Error::corrupt(OP, detail)
        })?;
        let (mut offset, mut at) = (mapping.offset(), mapping.moffset() * SECTOR_BYTES);
        let end = mapping.moffset_end() * SECTOR_BYTES;
        while at < end {
            let data = reader.read(at, end - at, &mut chunk)?;
            builder.append_tagged(offset, data, tag)?;
            at += data.len() as u64;
            offset += data.len() as u64 / SECTOR_BYTES;
            copied += data.len() as u64;
            progress(copied, total);
        }
    }
    builder.finish()
}

/// Refuses, before anything is copied, what cannot become one layer even though neighbours are joined.
fn check_runs(mappings: &[Mapping]) -> Result<()> {
    let joins = |one: &Mapping, next: &Mapping| {
        one.end() == next.offset() && one.is_zeroed() == next.is_zeroed() && one.tag() == next.tag()
    };
    let runs = mappings.chunk_by(joins).count();
    if runs <= MAPPINGS_MAX {
        return Ok(());
    }
    let detail = format!(
        "{runs} mappings with neighbours joined, a layer has at most {MAPPINGS_MAX}: the disk is too \
         fragmented; export the whole image and import that, which joins data of all layers"
    );
    Err(Error::new(ErrorKind::Unsupported, OP, detail))
}

/// Reads one source, mostly in ascending order.
struct Reader<'a> {
    source: &'a dyn ReadAt,
    /// The bytes at `window_start`; empty at first.
    window: Vec<u8>,
    window_start: u64,
    /// Where the last read ended.
    last_end: u64,
}

impl<'a> Reader<'a> {
    fn new(source: &'a dyn ReadAt) -> Self {
        Self {
            source,
            window: Vec::new(),
            window_start: 0,
            last_end: 0,
        }
    }

    /// The bytes from `at` on: `wanted`, or the first [`CHUNK_BYTES`] of them.
    fn read<'b>(&'b mut self, at: u64, wanted: u64, chunk: &'b mut [u8]) -> Result<&'b [u8]> {
        let len = usize::try_from(wanted)
            .unwrap_or(usize::MAX)
            .min(CHUNK_BYTES);
        let continues =
            at.saturating_sub(self.last_end) < WINDOW_BYTES as u64 && at >= self.last_end;
        self.last_end = at + len as u64;
        if len < WINDOW_BYTES {
            if self.window_range(at, len).is_none() && continues {
                self.fill_window(at);
            }
            if let Some(range) = self.window_range(at, len) {
                return Ok(self.window.get(range).unwrap_or_default());
            }
        }
        let chunk = chunk.split_at_mut(len).0;
        self.source.read_exact_at(at, chunk)?;
        Ok(chunk)
    }

    /// Where the window has `len` bytes from `at` on.
    fn window_range(&self, at: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(at.checked_sub(self.window_start)?).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.window.len()).then_some(start..end)
    }

    /// Reads ahead. That may fail for bytes nobody wants: the caller then reads only its own.
    fn fill_window(&mut self, at: u64) {
        let left = self.source.size().saturating_sub(at);
        let len = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(WINDOW_BYTES);
        self.window_start = at;
        self.window.resize(len, 0);
        if self.source.read_exact_at(at, &mut self.window).is_err() {
            self.window.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dest::Dest;
    use crate::io::MemoryFile;
    use crate::lsmt::Stack;
    use crate::read_at::Wait;
    use proptest::prelude::*;

    const DISK_SECTORS: u64 = 4096;

    fn options(size: u64) -> LayerOptions {
        LayerOptions {
            virtual_size_bytes: size,
            ..LayerOptions::default()
        }
    }

    fn open(bytes: Vec<u8>) -> Layer {
        Layer::open(Box::new(MemoryFile::new("layer", bytes))).unwrap()
    }

    /// A layer of (gap, sectors, zeroed) runs whose bytes tell their place.
    fn layer(seed: u8, runs: &[(u64, u64, bool)]) -> Vec<u8> {
        let size = DISK_SECTORS * SECTOR_BYTES;
        let mut builder = LayerBuilder::new(Vec::new(), options(size)).unwrap();
        let mut at = 0;
        for (gap, sectors, zeroed) in runs {
            at += gap;
            if at + sectors > DISK_SECTORS {
                break;
            }
            if *zeroed {
                builder.append_zeroed(at, *sectors, 0).unwrap();
            } else {
                let data: Vec<u8> = (at..at + sectors)
                    .flat_map(|sector| [seed, sector.to_le_bytes()[0], sector.to_le_bytes()[1], 1])
                    .flat_map(|byte| [byte; 128])
                    .collect();
                builder.append(at, &data).unwrap();
            }
            at += sectors;
        }
        builder.finish().unwrap().0
    }

    fn disk(layers: Vec<Layer>) -> Vec<u8> {
        let stack = Stack::new(layers).unwrap();
        let mut bytes = vec![9; usize::try_from(DISK_SECTORS * SECTOR_BYTES).unwrap()];
        let done = stack.read_at(0, Dest::from(&mut bytes[..]), Wait::UntilDone);
        done.unwrap().expect_done("test").unwrap();
        bytes
    }

    fn all(files: &[Vec<u8>]) -> Vec<Layer> {
        files.iter().cloned().map(open).collect()
    }

    fn merged(files: &[Vec<u8>]) -> Vec<u8> {
        let done = merge(
            all(files),
            &CompactOptions::default(),
            Vec::new(),
            &mut |_, _| {},
        );
        done.unwrap().0
    }

    fn runs() -> impl Strategy<Value = Vec<(u64, u64, bool)>> {
        // Runs below and above 32 KiB, the window and the chunk.
        let length = prop_oneof![8 => 1_u64..40, 2 => 60_u64..300, 1 => 2000_u64..2200];
        prop::collection::vec((0_u64..60, length, prop::bool::weighted(0.2)), 0..40)
    }

    proptest! {
        #[test]
        fn a_merged_layer_reads_as_the_stack_it_was_made_of(
            stack in prop::collection::vec(runs(), 1..5)
        ) {
            let files: Vec<_> = (1..).zip(&stack).map(|(seed, runs)| layer(seed, runs)).collect();
            let expected = disk(all(&files));
            let once = merged(&files);
            prop_assert!(disk(vec![open(once.clone())]) == expected);
            let (lowers, upper) = files.split_at(files.len() - 1);
            let flat = flatten(
                all(lowers), open(upper[0].clone()), &CompactOptions::default(), Vec::new(),
                &mut |_, _| {},
            );
            prop_assert!(disk(vec![open(flat.unwrap().0)]) == expected);
            // Nothing is left to compact.
            let again = merged(std::slice::from_ref(&once));
            let sectors = |bytes: &Vec<u8>| -> Vec<_> {
                let layer = open(bytes.clone());
                layer.mappings().iter().map(|mapping| mapping.range()).collect()
            };
            prop_assert!(sectors(&again).len() <= sectors(&once).len());
            prop_assert!(merged(std::slice::from_ref(&again)) == again);
        }
    }

    #[test]
    fn a_merged_layer_has_the_topmost_size_that_is_known_and_the_lowest_parent() {
        let parents = ["a", "b"].map(|digit| {
            Uuid::parse(&format!("{}-0000-4000-8000-000000000000", digit.repeat(8))).unwrap()
        });
        let make = |size, parent_uuid| {
            let options = LayerOptions {
                parent_uuid,
                ..options(size)
            };
            open(
                LayerBuilder::new(Vec::new(), options)
                    .unwrap()
                    .finish()
                    .unwrap()
                    .0,
            )
        };
        let layers = vec![
            make(512, parents[0]),
            make(1024, parents[1]),
            make(0, Uuid::NIL),
        ];
        let done = merge(
            layers,
            &CompactOptions::default(),
            Vec::new(),
            &mut |_, _| {},
        );
        let layer = open(done.unwrap().0);
        assert_eq!(layer.header().virtual_size_bytes, 1024);
        assert_eq!(layer.trailer().parent_uuid, parents[0]);
    }

    #[test]
    fn what_is_too_fragmented_is_refused_before_anything_is_copied() {
        let mapping = |number: u64, gap: u64| Mapping::data(number * (1 + gap), 1, 8 + number, 0);
        let runs = MAPPINGS_MAX as u64 + 1;
        let fragmented: Vec<_> = (0..runs).map(|number| mapping(number, 1)).collect();
        let error = check_runs(&fragmented).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("999937 mappings"), "{error}");
        // As many, but neighbours.
        let joined: Vec<_> = (0..runs).map(|number| mapping(number, 0)).collect();
        check_runs(&joined).unwrap();
        check_runs(&fragmented[1..]).unwrap();
    }

    #[test]
    fn damage_in_bytes_that_nothing_maps_to_does_not_stop_a_commit() {
        /// Fails reads of the last byte of the data.
        #[derive(Debug)]
        struct Damaged(MemoryFile, u64);
        impl ReadAt for Damaged {
            fn size(&self) -> u64 {
                self.0.size()
            }
            fn name(&self) -> &str {
                self.0.name()
            }
            fn read_at(
                &self,
                offset: u64,
                dest: Dest<'_>,
                wait: Wait,
            ) -> Result<crate::read_at::Progress> {
                match (offset..offset + dest.len() as u64).contains(&self.1) {
                    true => Err(Error::corrupt("read", "damaged")),
                    false => self.0.read_at(offset, dest, wait),
                }
            }
        }
        let bytes = layer(1, &[(0, 8, false), (8, 8, false)]);
        let sound = open(bytes.clone());
        let mappings = vec![sound.mappings()[0]];
        let damaged = Damaged(MemoryFile::new("damaged", bytes), 4096 + 15 * 512);
        let (header, trailer) = (sound.header().clone(), sound.trailer().clone());
        let half = Layer::from_parts(Box::new(damaged), header, trailer, mappings);
        let done = commit(
            &half,
            &CompactOptions::default(),
            Vec::new(),
            &mut |_, _| {},
        );
        let half = disk(vec![open(done.unwrap().0)]);
        assert!(half[..4096] == disk(vec![sound])[..4096]);
        assert!(half[4096..].iter().all(|byte| *byte == 0));
    }
}
