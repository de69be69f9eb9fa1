//! What the two files of a writable layer hold.
//!
//! obd info -> **pair** -> lsmt upper
//!
//! Source: format reference 1.6, 1.7; stat(2).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::layer_file::{WritablePart, writable_part};
use crate::error::{Error, Result};
use crate::lsmt::{HEADER_BYTES, upper};

/// Unit of the number of blocks in stat(2).
const STAT_BLOCK_BYTES: u64 = 512;

/// One thing to tell about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Both files of a writable layer.
    Pair {
        /// Data file.
        data: PathBuf,
        /// Index file; absent for a sparse layer, which has nothing in it.
        index: Option<PathBuf>,
    },
    /// One file of a writable layer without the other, or any other file.
    File(PathBuf),
}

/// A writable layer.
#[derive(Debug, Clone)]
pub struct PairInfo {
    /// A sparse layer, not an append-only one.
    pub is_sparse: bool,
    /// Size of the disk in bytes; 0 takes that of the layers below.
    pub virtual_size_bytes: u64,
    /// Name of the layer.
    pub uuid: String,
    /// Name of the layer below.
    pub parent_uuid: String,
    /// Size of the data file in bytes, holes included.
    pub data_file_bytes: u64,
    /// What the data file takes on this host, in bytes: less than its size where it has holes.
    pub on_host_bytes: u64,
    /// Runs of sectors that the layer holds, zeroed ones included.
    pub segments: u64,
    /// Bytes of data that can be read.
    pub used_bytes: u64,
    /// Bytes that read as zeros and hide lower layers.
    pub zeroed_bytes: u64,
    /// Bytes of data that later writes have hidden, those included that were given back to the
    /// host since; a commit leaves them out.
    pub garbage_bytes: u64,
}

/// Finds the pairs among `paths`. The other file of a pair may also lie beside the one that is
/// named: `x.data` and `x.index`, `writable_data` and `writable_index`.
#[must_use]
pub fn pair_up(paths: &[PathBuf]) -> Vec<Subject> {
    let part = |path: &PathBuf| writable_part(path).ok().flatten();
    let named: Vec<_> = paths.iter().map(|path| (path, part(path))).collect();
    let find = |wanted| {
        let found = named.iter().find(|(_, part)| *part == Some(wanted));
        found.map(|(path, _)| (*path).clone())
    };
    let beside = |path: &Path, from, to, wanted| {
        renamed(path, from, to).filter(|path| part(path) == Some(wanted))
    };
    let subject = |(path, part): &(&PathBuf, Option<WritablePart>)| {
        let path = (*path).clone();
        Some(match *part {
            Some(WritablePart::AppendData(layer)) => {
                let wanted = WritablePart::AppendIndex(layer);
                let index = find(wanted).or_else(|| beside(&path, "data", "index", wanted));
                match index {
                    None => Subject::File(path),
                    index => Subject::Pair { data: path, index },
                }
            }
            Some(WritablePart::AppendIndex(layer)) => {
                let wanted = WritablePart::AppendData(layer);
                if find(wanted).is_some() {
                    return None; // Told with its data file.
                }
                match beside(&path, "index", "data", wanted) {
                    None => Subject::File(path),
                    Some(data) => Subject::Pair {
                        data,
                        index: Some(path),
                    },
                }
            }
            Some(WritablePart::SparseData) => Subject::Pair {
                data: path,
                index: None,
            },
            Some(WritablePart::Empty) if find(WritablePart::SparseData).is_some() => return None,
            Some(WritablePart::Empty) | None => Subject::File(path),
        })
    };
    named.iter().filter_map(subject).collect()
}

/// The path with the last `from` of the file's name replaced.
fn renamed(path: &Path, from: &str, to: &str) -> Option<PathBuf> {
    let (before, after) = path.file_name()?.to_str()?.rsplit_once(from)?;
    Some(path.with_file_name(format!("{before}{to}{after}")))
}

/// Reads a writable layer that nobody writes. Blocking; changes neither file.
///
/// # Errors
/// As [`upper::open_read_only`].
pub fn inspect_pair(data: &Path, index: Option<&Path>) -> Result<PairInfo> {
    // Nothing is read from the index file of a sparse layer, so any will do.
    let layer = upper::open_read_only(data, index.unwrap_or(data))?;
    let (header, trailer) = (layer.header(), layer.trailer());
    let (used_bytes, data_file_bytes) = (layer.data_bytes(), layer.source().size());
    let metadata = data
        .metadata()
        .map_err(|source| Error::io("inspect file", source).in_file(data.display().to_string()))?;
    let written = match header.is_sparse() {
        true => used_bytes,
        false => data_file_bytes.saturating_sub(HEADER_BYTES as u64),
    };
    Ok(PairInfo {
        is_sparse: header.is_sparse(),
        virtual_size_bytes: trailer.virtual_size_bytes,
        uuid: trailer.uuid.to_string(),
        parent_uuid: header.parent_uuid.to_string(),
        data_file_bytes,
        on_host_bytes: metadata.blocks() * STAT_BLOCK_BYTES,
        segments: layer.mappings().len() as u64,
        used_bytes,
        zeroed_bytes: layer.zeroed_bytes(),
        garbage_bytes: written.saturating_sub(used_bytes),
    })
}
