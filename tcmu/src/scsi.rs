//! What SCSI commands ask of the disk, and what is answered without it.
//!
//! ring -> **scsi** (cdb, transfer, inquiry, vpd, mode ...) -> execute -> image
//!
//! Pure functions: a command block comes in, an [`Action`] or [`Sense`] goes out; no I/O, no
//! shared state. Reads and writes allocate nothing.
//!
//! Source: SPC-4 (commands of every device), SBC-3 (commands of disks).
//! Invariants
//! - every range of an [`Action`] is inside the disk, whole blocks, and within the limits that VPD
//!   page B0 states.
//! - nothing that changes the disk gets through to one that is read-only.
//! - no bytes of a command or a parameter list lead to a panic, and what is allocated for one is
//!   bounded by the 16-bit lengths of the standard.

mod capacity;
mod cdb;
mod disk;
mod engine_error;
mod fields;
mod inquiry;
pub mod limits;
mod luns;
mod mode;
mod reply;
mod sense;
mod start_stop;
mod transfer;
mod unmap;
mod vpd;
mod write_same;

pub use cdb::{Action, decode};
pub use disk::{ByteRange, Disk};
pub use mode::mode_select;
pub use reply::Reply;
pub use sense::{Field, Place, SENSE_BYTES, Sense, SenseKey};
pub use unmap::unmap_ranges;
