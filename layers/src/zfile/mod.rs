//! ZFile: a file as independently compressed blocks, so that any part can be read alone.
//!
//! image -> lsmt -> **zfile** -> tar -> io
//!
//! [`detect`] tells a zfile from other files, [`ZFile`] reads one, [`unwrap`] gives what is in one
//! and any other file as it is, [`ZFileBuilder`] writes one.
//!
//! Invariant: no byte is given out that did not pass its block's checksum, when the file has
//! checksums, which all files made by current tools have.
//!
//! Source: format reference 2.

mod builder;
mod checksum;
mod codec;
mod compressor;
mod format;
mod jump_table;
mod reader;
mod scratch;
mod verify;

pub use builder::{BuildOptions, Built, ZFileBuilder};
pub use format::Algorithm;
pub use reader::{ZFile, detect};
pub use verify::{BlockFault, VerifyReport};

use crate::error::Result;
use crate::read_at::ReadAt;

/// The decoded bytes of `source` when that is a zfile, else `source` itself. Blocks.
///
/// # Errors
/// As [`detect`] and [`ZFile::open`].
pub fn unwrap(source: Box<dyn ReadAt>) -> Result<Box<dyn ReadAt>> {
    match detect(&*source)? {
        true => Ok(Box::new(ZFile::open(source)?)),
        false => Ok(source),
    }
}
