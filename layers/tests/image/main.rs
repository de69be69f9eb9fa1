//! Whole images and the `obd` command, seen from outside.
#![cfg(test)]

mod bit_flips;
mod obd;
mod support;
mod vectors;
