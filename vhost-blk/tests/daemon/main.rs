//! The real daemon over real sockets.
#![cfg(test)]

mod blkio_client;
mod frontend;
mod killed;
mod life;
mod log_file;
mod process;
mod protocol;
mod telling;
mod whole_disk;
mod writing;
