//! The zfile stage seen from outside: what it reads, writes and refuses.
#![cfg(test)]

mod bit_flips;
mod properties;
mod reading;
mod support;
mod truncation;
mod vectors;
mod writer;
