//! A writable or sealed layer becomes a committed one: without garbage, perhaps compressed.
//!
//! lsmt upper | layer file -> **commit** -> lsmt compact -> wrapping -> output file

use std::path::Path;

use super::layer_file::open_layer;
use super::wrapping::Wrapping;
use crate::error::Result;
use crate::io::OutputFile;
use crate::lsmt::compact::{self, CompactOptions};
use crate::lsmt::{LayerSummary, upper};

/// What is committed.
#[derive(Debug, Clone, Copy)]
pub enum CommitSource<'a> {
    /// The two files of a writable layer, which nobody writes meanwhile.
    Pair {
        /// Data file.
        data: &'a Path,
        /// Index file.
        index: &'a Path,
    },
    /// A sealed or committed layer, wrapped or not.
    Sealed(&'a Path),
}

/// What a commit or merge makes.
#[derive(Debug, Clone, Default)]
pub struct NewLayerOptions {
    /// What the new layer says about itself.
    pub layer: CompactOptions,
    /// What it is wrapped into.
    pub wrapping: Wrapping,
}

/// What was made.
#[derive(Debug, Clone, Copy)]
pub struct NewLayer {
    /// The layer before compression.
    pub layer: LayerSummary,
    /// Size of the output file in bytes.
    pub file_bytes: u64,
}

/// Commits `source` to `output` and publishes that. `report` is told the bytes of data copied so
/// far and in all. Blocks.
///
/// # Errors
/// `Busy` for a layer that is being written; `Config` when the output would replace its source;
/// those of [`compact::commit`].
pub fn commit(
    source: CommitSource<'_>,
    output: OutputFile,
    options: &NewLayerOptions,
    report: &mut dyn FnMut(u64, u64),
) -> Result<NewLayer> {
    let layer = match source {
        CommitSource::Pair { data, index } => {
            output.check_is_not(data)?;
            output.check_is_not(index)?;
            upper::open_read_only(data, index)?
        }
        CommitSource::Sealed(path) => {
            output.check_is_not(path)?;
            open_layer(path)?
        }
    };
    let (layer, file_bytes) = options.wrapping.write(&output, |sink| {
        Ok(compact::commit(&layer, &options.layer, sink, report)?.1)
    })?;
    output.publish()?;
    Ok(NewLayer { layer, file_bytes })
}
