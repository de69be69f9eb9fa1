//! A disk's user from outside: what a vhost-user-blk server delivers, and how fast.
//!
//! **load** -> blkio (virtio-blk-vhost-user) -> socket and shared rings -> the server under test
//!
//! The client half of the protocol is the `blkio` crate, so nothing here shares code with the
//! server. [`measure`] keeps a fixed number of reads or writes in flight for a while
//! and counts; [`writes`] proves that what was written last is there; [`verify`] reads the whole disk and compares it with a raw file.
//!
//! Invariants: one queue, one thread; a buffer slot belongs to one request from submission to
//! completion; every wait ends in an error after [`disk::STALLED_AFTER`].

pub mod cpu;
pub mod disk;
pub mod measure;
pub mod pattern;
pub mod reference;
pub mod verify;
pub mod writes;
