//! A command block is what asks for something; here it is told what.
//!
//! ring -> **cdb** -> transfer, inquiry, mode ... -> execute
//!
//! Source: SPC-4 (the command descriptor block), SAM-5 (operation code, CONTROL byte).

use crate::scsi::disk::{ByteRange, Disk};
use crate::scsi::reply::Reply;
use crate::scsi::sense::{Field, Sense};
use crate::scsi::{capacity, inquiry, luns, mode, start_stop, transfer, unmap, write_same};

/// A command block of at most 16 bytes, zeros behind its end.
pub(crate) type Cdb = [u8; 16];

/// What is to be done for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Give this back.
    Reply(Reply),
    /// Nothing more: the command succeeded.
    Done,
    /// Fill the data-in with these bytes of the disk.
    Read(ByteRange),
    /// Put the data-out on the disk.
    Write {
        /// As long as the data-out.
        range: ByteRange,
        /// Flush before the command completes.
        fua: bool,
    },
    /// Read these bytes of the disk and give back nothing.
    Verify(ByteRange),
    /// Put one block over and over on the disk. A block of zeros is the same as zeroing the range, with and without leave to unmap.
    WriteSame {
        /// At most [`crate::scsi::limits::WRITE_SAME_BLOCKS_MAX`] blocks.
        range: ByteRange,
        /// There is no data-out: the block is all zeros.
        no_data_out: bool,
    },
    /// Unmap the ranges that [`crate::scsi::unmap_ranges`] finds in the data-out.
    Unmap {
        /// Bytes of the data-out that are the parameter list; at least 1.
        list_len: usize,
    },
    /// Answer with what [`crate::scsi::mode_select`] says of the data-out.
    ModeSelect {
        /// MODE SELECT(10).
        ten: bool,
        /// Bytes of the data-out that are the parameter list; at least 1.
        list_len: usize,
    },
    /// Make what was written before safe from a power cut.
    Flush,
    /// INVALID COMMAND OPERATION CODE.
    Unsupported,
}

/// What `cdb` asks of `disk`. Bytes beyond the length that the operation code gives are ignored.
///
/// # Errors
/// The sense data to answer with.
pub fn decode(cdb: &[u8], disk: &Disk) -> Result<Action, Sense> {
    let Some(&opcode) = cdb.first() else {
        return Ok(Action::Unsupported);
    };
    let Some(command) = command(opcode) else {
        return Ok(Action::Unsupported);
    };
    let Some((len, control_byte)) = length(opcode) else {
        return Ok(Action::Unsupported);
    };
    let Some(bytes) = cdb.get(..len) else {
        return Err(Sense::invalid_field(Field::cdb(0)));
    };
    let mut padded: Cdb = [0; 16];
    for (to, from) in padded.iter_mut().zip(bytes) {
        *to = *from;
    }
    // An auto contingent allegiance is not established: NACA must be zero.
    if bytes.last().is_some_and(|control| control & 0x04 != 0) {
        return Err(Sense::invalid_field(Field::cdb_bit(control_byte, 2)));
    }
    command(&padded, disk)
}

type Command = fn(&Cdb, &Disk) -> Result<Action, Sense>;

/// The function that reads the fields of an operation code's command blocks.
fn command(opcode: u8) -> Option<Command> {
    let command: Command = match opcode {
        0x00 => |_, _| Ok(Action::Done), // TEST UNIT READY
        0x03 => inquiry::request_sense,
        0x08 => transfer::read_6,
        0x0a => transfer::write_6,
        0x12 => inquiry::inquiry,
        0x15 => mode::select_6,
        0x1a => mode::sense_6,
        0x1b => start_stop::start_stop_unit,
        0x1e => start_stop::prevent_allow,
        0x25 => capacity::capacity_10,
        0x28 => transfer::read_10,
        0x2a => transfer::write_10,
        0x2f => transfer::verify_10,
        0x35 => transfer::synchronize_cache_10,
        0x41 => write_same::write_same_10,
        0x42 => unmap::unmap,
        0x55 => mode::select_10,
        0x5a => mode::sense_10,
        0x88 => transfer::read_16,
        0x8a => transfer::write_16,
        0x8f => transfer::verify_16,
        0x91 => transfer::synchronize_cache_16,
        0x93 => write_same::write_same_16,
        0x9e => capacity::service_action_in_16,
        0xa0 => luns::report_luns,
        0xa8 => transfer::read_12,
        0xaa => transfer::write_12,
        _ => return None,
    };
    Some(command)
}

/// Bytes of a command block, and its control byte. The group that the first three bits make
/// gives it.
fn length(opcode: u8) -> Option<(usize, u16)> {
    match opcode >> 5 {
        0 => Some((6, 5)),
        1 | 2 => Some((10, 9)),
        4 => Some((16, 15)),
        5 => Some((12, 11)),
        _ => None,
    }
}
