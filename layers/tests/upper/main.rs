//! Writable layers, in files of a real file system.
#![cfg(test)]

mod crashes;
#[path = "../support/expected_disk.rs"]
mod expected_disk;
mod files;
mod history;
mod properties;
mod recorded;
mod support;
mod threads;
mod vectors;
