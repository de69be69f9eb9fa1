//! Traces and file lists: what is recorded, and what is fetched ahead of a disk's reads.
#![cfg(test)]

mod automatic;
mod ext4;
mod file_list;
mod obd_trace;
mod recording;
mod replay;
mod support;
