//! Layers that are downloaded in the background: files on a real file system, a source in memory.
#![cfg(test)]

mod killed;
mod layer;
mod no_space;
mod reading;
mod shared;
mod support;
