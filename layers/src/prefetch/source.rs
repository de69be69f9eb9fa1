//! Where it is written what to prefetch.
//!
//! prefetch -> **source** -> trace, file_list
//!
//! Source: format reference 4.2 (acceleration layer), 4.5, 4.6.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::file_list::FileList;
use super::plan::Stored;
use super::replay::Fetching;
use super::trace::{self, TRACE_BYTES_MAX, Trace};
use crate::cache::{BlobUse, Patience, Place};
use crate::config::{ImageConfig, LowerConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::lsmt::Stack;
use crate::range_source::RangeSource;
use crate::read_at::ReadAt;
use crate::service::Service;
use crate::tar;

/// A trace that does not come in this time comes too late.
const PATIENCE: Duration = Duration::from_secs(30);

const OP: &str = "read acceleration layer";

/// See the module's description.
#[derive(Debug)]
pub(super) enum Source {
    /// A trace or file list on this host.
    File(PathBuf),
    /// A layer in a registry that holds one, and the prefix of its URL.
    Layer(Box<LowerConfig>, String),
}

/// What is in it.
#[derive(Debug)]
pub(super) enum Contents {
    Trace(Trace),
    List(FileList),
}

impl Source {
    /// The last lower: a file in its directory, or else the layer itself.
    pub(super) fn of_acceleration_layer(config: &ImageConfig) -> Option<Self> {
        let layer = config.lowers.last()?;
        let path = layer.dir.join("trace");
        let is_there = !layer.dir.as_os_str().is_empty()
            && path
                .metadata()
                .is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0);
        if is_there {
            return Some(Self::File(path));
        }
        if layer.digest.is_empty() || config.repo_blob_url.is_empty() {
            log::warn!("acceleration layer: no trace in {:?}", layer.dir);
            return None;
        }
        let url = config.repo_blob_url.clone();
        Some(Self::Layer(Box::new(layer.clone()), url))
    }

    /// What the log calls it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File(path) => format!("trace {}", path.display()),
            Self::Layer(layer, _) => format!("acceleration layer {}", layer.digest),
        }
    }

    /// Reads and checks it. Blocks.
    ///
    /// # Errors
    /// As [`Trace::parse`], [`FileList::parse`], and those of reading.
    pub(super) fn load(&self, service: &Service) -> Result<Contents> {
        let bytes = match self {
            Self::File(path) => trace::read_bounded(path, TRACE_BYTES_MAX)?,
            Self::Layer(layer, url) => fetch_layer(layer, url, service)?,
        };
        let contents = match trace::is_trace(&bytes) {
            true => Trace::parse(&bytes).map(Contents::Trace),
            false => FileList::parse(&bytes).map(Contents::List),
        };
        contents.map_err(|error| error.in_file(self.name()))
    }
}

/// The file in the tar that the layer is.
fn fetch_layer(layer: &LowerConfig, url: &str, service: &Service) -> Result<Vec<u8>> {
    let remote = service.remote()?;
    let known_size = (layer.size > 0).then_some(layer.size);
    let source: Arc<dyn RangeSource> =
        Arc::new(remote.registry.blob(url, &layer.digest, known_size)?);
    let wanted = BlobUse {
        digest: layer.digest.clone(),
        place: Place::Shared,
        patience: Arc::new(Patience::new(PATIENCE)),
        journal: Arc::default(),
    };
    let blob = remote.cache.blob(source, wanted)?;
    member(Box::new(blob)).map_err(|error| error.in_file(&layer.digest))
}

/// The only member of the tar `blob`.
fn member(blob: Box<dyn ReadAt>) -> Result<Vec<u8>> {
    if tar::detect(&*blob)?.is_none() {
        let detail = "not a plain tar: a trace in a compressed one is not replayed";
        return Err(Error::new(ErrorKind::Unsupported, OP, detail));
    }
    let file = tar::unwrap(blob)?;
    match usize::try_from(file.size()) {
        Ok(size) if size <= TRACE_BYTES_MAX => {
            let mut bytes = vec![0; size];
            file.read_exact_at(0, &mut bytes)?;
            Ok(bytes)
        }
        _ => {
            let detail = format!("{} bytes are too many for a trace", file.size());
            Err(Error::new(ErrorKind::Unsupported, OP, detail))
        }
    }
}

/// Where the reads of `trace` are stored, as far as that is elsewhere. Records outside of their
/// layer are left out.
pub(super) fn stored_of_trace(trace: &Trace, stack: &Stack, fetching: &Fetching) -> Vec<Stored> {
    let stored = trace.records.iter().filter_map(|record| {
        let layer = usize::try_from(record.layer).ok()?;
        let source = stack.source(layer).filter(|_| fetching.is_remote(layer))?;
        let end = record
            .offset
            .saturating_add(record.bytes)
            .min(source.size());
        (record.offset < end).then(|| Stored {
            layer,
            range: source.stored_range(record.offset..end),
        })
    });
    stored.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::MemoryFile;
    use std::io::{Cursor, Write};

    #[test]
    fn a_trace_is_taken_out_of_a_plain_tar_and_not_out_of_a_compressed_one() {
        let mut writer = tar::TarWriter::new(Cursor::new(Vec::new())).unwrap();
        writer.write_all(b"a trace").unwrap();
        let tarred = writer.finish(0o100_444).unwrap().into_inner();
        let file = |bytes| Box::new(MemoryFile::new("layer", bytes));
        assert_eq!(member(file(tarred)).unwrap(), b"a trace");
        let error = member(file(b"\x1f\x8b\x08 and more".repeat(100))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
