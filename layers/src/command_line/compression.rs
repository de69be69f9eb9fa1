//! Options of every tool that compresses.
//!
//! Source: format reference 10.2, 10.6.

use std::num::NonZero;

use super::cli11::Failure;
use crate::limits::ZFILE_WRITER_THREADS_MAX;
use crate::zfile::{Algorithm, BuildOptions};

/// `--bs` and `--compress_threads`.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct CompressionArgs {
    /// KiB in a block before compression: 4, 8, 16, 32 or 64
    #[arg(long = "bs", value_name = "KIB", default_value_t = 4)]
    pub block_kib: u32,
    /// Threads that compress; 0 means one for each CPU
    #[arg(long = "compress_threads", value_name = "N", default_value_t = 0)]
    pub threads: usize,
}

impl CompressionArgs {
    /// How to write a zfile with these options.
    ///
    /// # Errors
    /// A block size that is not allowed.
    pub fn options(
        self,
        algorithm: Algorithm,
        overwrite_header: bool,
    ) -> Result<BuildOptions, Failure> {
        if !matches!(self.block_kib, 4 | 8 | 16 | 32 | 64) {
            return Err(Failure::new("invalid '--bs' parameters."));
        }
        Ok(BuildOptions {
            algorithm,
            block_bytes: self.block_kib * 1024,
            overwrite_header,
            threads: threads(self.threads),
        })
    }
}

/// The algorithm of that name.
#[must_use]
pub fn algorithm(name: &str) -> Option<Algorithm> {
    let known = [Algorithm::Lz4, Algorithm::Zstd];
    known.into_iter().find(|known| known.name() == name)
}

/// The number of threads that `wanted` means: 0 is one for each CPU.
#[must_use]
pub fn threads(wanted: usize) -> usize {
    let cpus = || std::thread::available_parallelism().map_or(1, NonZero::get);
    let number = if wanted == 0 { cpus() } else { wanted };
    number.min(ZFILE_WRITER_THREADS_MAX)
}
