//! One block in, one block out: the compression libraries behind one signature.
//!
//! image -> lsmt -> **zfile** -> tar -> io
//!
//! Invariants
//! - compressed bytes are private memory of this process: nobody changes them while they are
//!   decoded.
//! - a decoder writes inside its destination only, whatever the compressed bytes are. It may read
//!   there what it wrote before, as both formats refer back to earlier output; a guest that
//!   changes its memory meanwhile spoils its own bytes and nothing else.
//!
//! Source: format reference 2.5.

mod lz4;
mod zstd;

use super::format::Algorithm;
use crate::dest::Dest;
use crate::error::{Error, Result};

/// Decodes blocks; kept by a thread, since making one costs more than decoding a block.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    zstd: zstd::Decoder,
}

impl Decoder {
    /// Decodes one block into the front of `dest` and returns how many bytes it had.
    /// `None` when it is damaged or larger than `dest`.
    #[inline]
    pub(crate) fn decode(
        &mut self,
        algorithm: Algorithm,
        compressed: &[u8],
        dest: Dest<'_>,
    ) -> Option<usize> {
        match algorithm {
            Algorithm::Lz4 => lz4::decode(compressed, dest),
            Algorithm::Zstd => self.zstd.decode(compressed, dest),
        }
    }
}

/// Compresses blocks; kept by a thread.
#[derive(Debug)]
pub(crate) struct Encoder {
    algorithm: Algorithm,
    zstd: zstd::Encoder,
}

impl Encoder {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            zstd: zstd::Encoder::default(),
        }
    }

    /// Compresses `block` into the front of `out` and returns how many bytes that took.
    ///
    /// # Errors
    /// `Unsupported` when the library refuses or `out` is too small for it.
    pub(crate) fn encode(&mut self, block: &[u8], out: &mut [u8]) -> Result<usize> {
        let compressed = match self.algorithm {
            Algorithm::Lz4 => lz4::encode(block, out),
            Algorithm::Zstd => self.zstd.encode(block, out),
        };
        compressed.ok_or_else(|| {
            let detail = format!(
                "{} cannot put {} bytes into {}",
                self.algorithm.name(),
                block.len(),
                out.len()
            );
            Error::new(
                crate::error::ErrorKind::Unsupported,
                "compress zfile block",
                detail,
            )
        })
    }
}
