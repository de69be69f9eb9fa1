//! The tar around a layer: makes a registry blob a legal tar and is skipped when reading.
//!
//! image -> lsmt -> zfile -> **tar** -> io
//!
//! [`unwrap`] gives the payload of a wrapped file and any other file as it is; [`TarWriter`] wraps.
//!
//! Source: format reference 3.

mod header;
mod window;
mod writer;

pub use header::{Member, detect};
pub use writer::TarWriter;

use crate::error::Result;
use crate::read_at::ReadAt;

/// The payload of `source` when that is a tar, else `source` itself. Blocks.
///
/// # Errors
/// As [`detect`].
pub fn unwrap(source: Box<dyn ReadAt>) -> Result<Box<dyn ReadAt>> {
    match detect(&*source)? {
        Some(member) => Ok(Box::new(window::Window::new(source, member))),
        None => Ok(source),
    }
}
