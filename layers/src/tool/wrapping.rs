//! What a layer file is wrapped into on its way to the output.
//!
//! import | commit | merge | zfile -> **wrapping** (zfile builder -> tar writer) -> output file

use std::io::{BufWriter, Seek, Write};
use std::os::unix::fs::MetadataExt;

use crate::error::{Error, Result};
use crate::io::{OutputFile, WriteBehind};
use crate::tar::TarWriter;
use crate::zfile::{BuildOptions, ZFileBuilder};

/// Larger than headers and index entries, smaller than what a zfile builder writes at once.
const BUFFER_BYTES: usize = 128 << 10;

/// The wrappers, from the inside out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wrapping {
    /// Compression.
    pub zfile: Option<BuildOptions>,
    /// A tar around it, as registries want it.
    pub tar: bool,
}

impl Wrapping {
    /// Writes what `fill` writes, wrapped, into `output`. Returns what `fill` returned and the
    /// size of the output in bytes. The caller publishes.
    pub(super) fn write<T>(
        self,
        output: &OutputFile,
        fill: impl FnOnce(&mut dyn Write) -> Result<T>,
    ) -> Result<(T, u64)> {
        let written = self.write_tar(output, fill);
        written.map_err(|error| error.in_file(output.path().display().to_string()))
    }

    fn write_tar<T>(
        self,
        output: &OutputFile,
        fill: impl FnOnce(&mut dyn Write) -> Result<T>,
    ) -> Result<(T, u64)> {
        let sink = BufWriter::with_capacity(BUFFER_BYTES, WriteBehind::new(output.file()));
        let fail = |source| Error::io("write output file", source);
        let filled = if self.tar {
            let (tar, filled) = self.write_zfile(TarWriter::new(sink)?, fill)?;
            let mode = output.file().metadata().map_err(fail)?.mode();
            tar.finish(mode)?.flush().map_err(fail)?;
            filled
        } else {
            let (mut sink, filled) = self.write_zfile(sink, fill)?;
            sink.flush().map_err(fail)?;
            filled
        };
        let file_bytes = output.file().metadata().map_err(fail)?.len();
        Ok((filled, file_bytes))
    }

    fn write_zfile<W: Write + Seek, T>(
        self,
        mut sink: W,
        fill: impl FnOnce(&mut dyn Write) -> Result<T>,
    ) -> Result<(W, T)> {
        match self.zfile {
            Some(options) => {
                let mut zfile = ZFileBuilder::new(sink, options)?;
                let filled = fill(&mut zfile)?;
                Ok((zfile.finish()?.sink, filled))
            }
            None => {
                let filled = fill(&mut sink)?;
                Ok((sink, filled))
            }
        }
    }
}
