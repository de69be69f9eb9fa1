//! The `overlaybd-*` programs, run as their callers run them.
#![cfg(test)]

mod commit;
mod create;
mod diff;
mod info;
mod merge;
mod outputs;
mod resize;
mod support;
mod verify;
mod zfile;
