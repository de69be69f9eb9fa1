//! LSMT layers: a log-structured block device, frozen into one file.
//!
//! image -> **lsmt** -> zfile -> tar -> io
//!
//! A layer file is a header, data sectors in the order they were written, a sorted index of
//! [`Mapping`]s, and a trailer. An image is a stack of up to 255 layers; their indexes are
//! merged once, at open, so that a read costs one lookup however deep the stack is.
//!
//! All addresses in this module are sectors of 512 bytes unless a name says bytes.
//!
//! Source: format reference 1.

mod builder;
pub mod compact;
mod format;
pub mod index;
mod index_file;
mod layer;
mod mapping;
mod overlay;
mod stack;
pub mod upper;
mod uuid;

pub use builder::{LayerBuilder, LayerOptions, LayerSummary};
pub use format::{HEADER_BYTES, Record, RecordKind, is_lsmt};
pub use index::{Index, LookupPath};
pub use index_file::parse_entries;
pub use layer::Layer;
pub(crate) use layer::is_sealed;
pub use mapping::{Mapping, SectorRange};
pub use overlay::merge_layers;
pub use stack::Stack;
pub use upper::{Upper, UpperIndex, WriteBatch};
pub use uuid::Uuid;
