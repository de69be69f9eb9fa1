//! The overlaybd engine: an image is a stack of block-device layers, read on demand.
//!
//! The modules below are listed in the order a read passes through them:
//!
//! ```text
//! image -> lsmt -> zfile -> tar -> io (local file)
//! ```

#[cfg(feature = "cli")]
pub mod command_line;
pub mod config;
pub mod dest;
pub mod error;
pub mod image;
pub mod io;
pub mod limits;
pub mod lsmt;
pub mod read_at;
pub mod tar;
pub mod tool;
pub mod write_at;
pub mod zfile;

pub use dest::Dest;
pub use error::{Error, ErrorKind, Result};
pub use image::Image;
pub use io::Access;
pub use lsmt::WriteBatch;
pub use read_at::{Progress, ReadAt, Wait};
pub use write_at::WriteAt;
