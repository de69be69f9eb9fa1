//! Files on this host and in memory.
//!
//! image -> lsmt -> zfile -> tar -> **io**

mod local_file;
mod memory;

pub use local_file::LocalFile;
pub use memory::MemoryFile;
