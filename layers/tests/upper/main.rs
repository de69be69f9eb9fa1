//! Writable layers, in files of a real file system.
#![cfg(test)]

mod crashes;
mod files;
mod history;
mod properties;
mod recorded;
mod support;
mod threads;
mod vectors;
