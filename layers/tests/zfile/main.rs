//! The zfile stage seen from outside: what it reads, writes and refuses.
#![cfg(test)]

mod support;
mod vectors;
