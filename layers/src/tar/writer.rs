//! Wraps a payload into a tar with one member, as the C++ tools do.
//!
//! file -> zfile builder -> **tar** -> io
//!
//! The size of the payload is known last, so the headers are written twice: first ones that no
//! reader takes for a tar, then the right ones. Sizes go into a PAX record, whose header is the
//! same for payloads of any size; the size field of the member stays 0.
//!
//! Invariant: payload offset 0 is file offset 1536; the file ends with two zero blocks.
//!
//! Source: format reference 3.2.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::header::{BLOCK_BYTES, BLOCK_LEN, PAX_PAYLOAD_OFFSET, checksum};
use crate::error::{Error, Result};

const OP: &str = "write tar";

type Block = [u8; BLOCK_BYTES];

/// Takes a payload through [`Write`] and [`Seek`], whose offset 0 is the start of the payload.
#[derive(Debug)]
pub struct TarWriter<W: Write + Seek> {
    sink: W,
    /// Where the next byte goes, counted from the start of the payload.
    position: u64,
    payload_bytes: u64,
}

impl<W: Write + Seek> TarWriter<W> {
    /// Writes the provisional headers. `sink` must be empty.
    ///
    /// # Errors
    /// `Io` when the sink fails.
    pub fn new(mut sink: W) -> Result<Self> {
        let headers = [
            provisional_pax_header(),
            pax_record(0),
            provisional_member_header(),
        ];
        sink.write_all(headers.as_flattened())
            .map_err(|source| Error::io(OP, source).at(0))?;
        Ok(Self {
            sink,
            position: 0,
            payload_bytes: 0,
        })
    }

    /// Ends the tar and writes the final headers. `mode` is the `st_mode` of the file, type bits
    /// included. The sink comes back positioned behind the headers.
    ///
    /// # Errors
    /// `Io` when the sink fails.
    pub fn finish(mut self, mode: u32) -> Result<W> {
        match self.write_ends(mode) {
            Ok(()) => Ok(self.sink),
            Err(source) => Err(Error::io(OP, source)),
        }
    }

    fn write_ends(&mut self, mode: u32) -> io::Result<()> {
        let end = PAX_PAYLOAD_OFFSET + self.payload_bytes;
        self.sink.seek(SeekFrom::Start(end))?;
        let padding = end.next_multiple_of(BLOCK_LEN) - end;
        io::copy(
            &mut io::repeat(0).take(padding + 2 * BLOCK_LEN),
            &mut self.sink,
        )?;
        let record = pax_record(self.payload_bytes);
        let headers = [pax_header(&record), record, member_header(mode)];
        self.sink.seek(SeekFrom::Start(0))?;
        self.sink.write_all(headers.as_flattened())?;
        self.sink.flush()
    }
}

impl<W: Write + Seek> Write for TarWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.sink.write(bytes)?;
        self.position += len as u64;
        self.payload_bytes = self.payload_bytes.max(self.position);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl<W: Write + Seek> Seek for TarWriter<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(distance) => self.position.checked_add_signed(distance),
            SeekFrom::End(distance) => self.payload_bytes.checked_add_signed(distance),
        };
        let (target, sink_target) = target
            .and_then(|target| Some((target, target.checked_add(PAX_PAYLOAD_OFFSET)?)))
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.sink.seek(SeekFrom::Start(sink_target))?;
        self.position = target;
        Ok(target)
    }
}

fn provisional_pax_header() -> Block {
    let mut header = [0; BLOCK_BYTES];
    put(&mut header, NAME, b"overlaybd.pax");
    header
}

fn provisional_member_header() -> Block {
    let mut header = [0; BLOCK_BYTES];
    put(&mut header, NAME, b"overlaybd.new");
    put(&mut header, MAGIC, b"xxtar\0");
    put(&mut header, VERSION, b"xx");
    header
}

/// `LENGTH size=BYTES` and a newline, where LENGTH counts itself.
fn pax_record(payload_bytes: u64) -> Block {
    let body = format!(" size={payload_bytes}\n");
    // A number of up to 20 digits: LENGTH has one or two digits.
    let digits = if body.len() + 1 < 10 { 1 } else { 2 };
    let mut block = [0; BLOCK_BYTES];
    let record = format!("{}{body}", body.len() + digits);
    put(&mut block, 0, record.as_bytes());
    block
}

fn pax_header(record: &Block) -> Block {
    let record_len = record.iter().take_while(|byte| **byte != 0).count();
    let mut header = [0; BLOCK_BYTES];
    put(&mut header, NAME, b"overlaybd.pax");
    put(&mut header, SIZE, long_octal(record_len as u64).as_bytes());
    seal(&mut header, b'x');
    header
}

fn member_header(mode: u32) -> Block {
    let mut header = [0; BLOCK_BYTES];
    put(&mut header, NAME, b"overlaybd.commit");
    // st_mode has 16 bits, which are 6 octal digits.
    put(&mut header, MODE, short_octal(mode & 0o177_777).as_bytes());
    put(&mut header, UID, short_octal(0).as_bytes());
    put(&mut header, GID, short_octal(0).as_bytes());
    put(&mut header, SIZE, long_octal(0).as_bytes());
    put(&mut header, MTIME, long_octal(0).as_bytes());
    put(&mut header, USER_NAME, b"root");
    put(&mut header, GROUP_NAME, b"root");
    seal(&mut header, b'0');
    header
}

/// Adds what makes a block a header: type, magic, version and, last, the checksum.
fn seal(header: &mut Block, type_flag: u8) {
    put(header, TYPE_FLAG, &[type_flag]);
    put(header, MAGIC, b"ustar\0");
    put(header, VERSION, b"00");
    let checksum = short_octal(checksum(header));
    put(header, CHECKSUM, checksum.as_bytes());
}

const NAME: usize = 0;
const MODE: usize = 100;
const UID: usize = 108;
const GID: usize = 116;
const SIZE: usize = 124;
const MTIME: usize = 136;
const CHECKSUM: usize = 148;
const TYPE_FLAG: usize = 156;
const MAGIC: usize = 257;
const VERSION: usize = 263;
const USER_NAME: usize = 265;
const GROUP_NAME: usize = 297;

/// The 8-byte form of a number: 6 columns, a space, a NUL.
fn short_octal(value: u32) -> String {
    format!("{value:>6o} \0")
}

/// The 12-byte form of a number: 11 columns, a space.
fn long_octal(value: u64) -> String {
    format!("{value:>11o} ")
}

#[expect(
    clippy::indexing_slicing,
    reason = "field offsets are constants, and every value is no longer than its field"
)]
fn put(block: &mut Block, at: usize, value: &[u8]) {
    block[at..at + value.len()].copy_from_slice(value);
}
