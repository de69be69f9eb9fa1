//! Whole images and the `obd` command, seen from outside.
#![cfg(test)]

mod bit_flips;
#[path = "../support/expected_disk.rs"]
mod expected_disk;
mod obd;
mod support;
mod vectors;
