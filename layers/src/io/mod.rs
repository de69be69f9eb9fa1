//! Files on this host.
//!
//! image -> lsmt -> zfile -> tar -> **io**

mod local_file;

pub use local_file::LocalFile;
