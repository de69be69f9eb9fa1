//! The overlaybd engine: an image is a stack of block-device layers, read on demand.
//!
//! The modules below are listed in the order a read passes through them:
//!
//! ```text
//! image -> lsmt -> zfile -> tar -> cache -> registry
//!                                  io (local file)
//! ```

pub mod audit;
pub mod cache;
#[cfg(feature = "cli")]
pub mod command_line;
pub mod complaints;
pub mod config;
pub mod dest;
pub mod download;
pub mod error;
pub mod exporter;
pub mod image;
pub mod io;
pub mod limits;
pub mod log_file;
pub mod lsmt;
pub mod metrics;
pub mod prefetch;
pub mod range_source;
pub mod read_at;
pub mod registry;
pub mod service;
pub mod socket;
pub mod tar;
pub mod tcmu_names;
pub mod tool;
pub mod write_at;
pub mod write_pace;
pub mod zfile;

pub use complaints::Complaints;
pub use dest::Dest;
pub use error::{Error, ErrorKind, Remote, Result};
pub use image::Image;
pub use io::Access;
pub use lsmt::WriteBatch;
pub use read_at::{Progress, ReadAt, Wait};
pub use service::Service;
pub use write_at::WriteAt;
pub use write_pace::WritePace;
