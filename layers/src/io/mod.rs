//! Files on this host and in memory.
//!
//! image -> lsmt -> zfile -> tar -> **io**

mod extents;
mod fault_guard;
mod local_file;
mod mapped_file;
mod memory;
mod output_file;
mod positioned;
mod unnamed_file;
mod upper_file;
mod write_behind;

pub use extents::next_data_extent;
pub use local_file::{LocalFile, open_with_size};
pub use memory::MemoryFile;
pub use output_file::{OutputFile, OutputOptions};
pub use upper_file::{Access, UpperFile};
pub use write_behind::WriteBehind;
