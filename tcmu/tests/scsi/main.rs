//! SCSI commands as initiators send them, and what they get.
#![cfg(test)]

mod capacity;
mod commands;
mod disks;
mod identity;
mod mode;
mod properties;
mod transfers;
mod unmapping;
