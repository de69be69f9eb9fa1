//! Live snapshots, in files of a real file system and over HTTP.
#![cfg(test)]

mod api;
mod consistency;
mod held;
mod killed;
mod refused;
mod sequence;
mod states;
mod support;
