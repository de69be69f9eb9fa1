//! The writable layer on top of a stack.
//!
//! image -> **lsmt upper** -> files
//!
//! Source: format reference 1.6, 1.7.

mod batch;
mod index;

pub use batch::WriteBatch;
pub use index::UpperIndex;
