//! Files on this host and in memory.
//!
//! image -> lsmt -> zfile -> tar -> **io**

mod extents;
mod fault_guard;
mod free_space;
mod local_file;
mod mapped_file;
mod memory;
mod output_file;
mod positioned;
mod range_lock;
mod shared_table;
mod unnamed_file;
mod upper_file;
mod write_behind;

pub use extents::{allocate, next_data_extent, punch_hole};
pub use free_space::free_bytes;
pub use local_file::{LocalFile, open_with_size};
pub use memory::MemoryFile;
pub use output_file::{OutputFile, OutputOptions};
pub use range_lock::{LockKind, RangeLock, is_locked};
pub use shared_table::SharedTable;
pub use upper_file::{Access, UpperFile};
pub use write_behind::WriteBehind;
