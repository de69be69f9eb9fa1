//! Writable layers, in files of a real file system.
#![cfg(test)]

mod files;
mod support;
mod vectors;
