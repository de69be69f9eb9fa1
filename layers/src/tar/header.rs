//! Finds the payload of a tar-wrapped layer: header bytes to offset and size.
//!
//! image -> lsmt -> zfile -> **tar** -> io
//!
//! ```text
//! [ member header 512 ][ payload ]                                      made by Go's archive/tar
//! [ PAX header 512 ][ PAX records 512 ][ member header 512 ][ payload ] made by the C++ tools
//! ```
//!
//! The C++ tools write 0 as the size in the member header and the real one as a PAX record.
//! Other layouts, such as PAX records over several blocks or long names, would put the payload
//! where the C++ reader does not look for it; they are refused as unsupported.
//!
//! A header counts only with "ustar", version "00" and its checksum, which old writers computed
//! over signed bytes. The member's name is not looked at.
//!
//! Source: format reference 3.1; POSIX pax, "ustar interchange format".

use crate::error::{Error, ErrorKind, Result};
use crate::read_at::ReadAt;

/// The unit of a tar.
pub(crate) const BLOCK_BYTES: usize = 512;

/// [`BLOCK_BYTES`] as a file offset.
pub(crate) const BLOCK_LEN: u64 = 512;

/// Where the payload starts behind a PAX header.
pub(crate) const PAX_PAYLOAD_OFFSET: u64 = 3 * BLOCK_LEN;

const OP: &str = "read tar header";

/// The one file in the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Where its first byte is: 512 or 1536.
    pub offset: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Finds the member of a tar. `None`: the file is not a tar. Blocks.
///
/// # Errors
/// `Corrupt` when the tar is damaged or cut short, `Unsupported` when its first member is not
/// laid out as a layer; errors of `source`.
pub fn detect(source: &dyn ReadAt) -> Result<Option<Member>> {
    find_member(source).map_err(|error| error.in_file(source.name()))
}

fn find_member(source: &dyn ReadAt) -> Result<Option<Member>> {
    if source.size() < BLOCK_LEN {
        return Ok(None);
    }
    let first = read_block(source, 0)?;
    if !is_header(&first) {
        return Ok(None);
    }
    let member = match type_flag(&first) {
        b'x' | b'g' => behind_pax(source, &first)?,
        _ => Member {
            offset: BLOCK_LEN,
            bytes: member_size(&first, 0)?,
        },
    };
    if member
        .offset
        .checked_add(member.bytes)
        .is_none_or(|end| end > source.size())
    {
        let detail = format!(
            "payload of {} bytes at byte {}, but the file ends at byte {}",
            member.bytes,
            member.offset,
            source.size()
        );
        return Err(Error::corrupt(OP, detail));
    }
    Ok(Some(member))
}

fn behind_pax(source: &dyn ReadAt, first: &[u8; BLOCK_BYTES]) -> Result<Member> {
    let records_len = size_field(first, 0)?;
    let records_len = match usize::try_from(records_len) {
        Ok(len @ 1..=BLOCK_BYTES) => len,
        _ => {
            let detail = format!("PAX records of {records_len} bytes, expected 1 to {BLOCK_BYTES}");
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
    };
    if source.size() < PAX_PAYLOAD_OFFSET {
        let detail = format!(
            "the file ends at byte {}, inside the tar headers",
            source.size()
        );
        return Err(Error::corrupt(OP, detail));
    }
    let records = read_block(source, BLOCK_LEN)?;
    let header = read_block(source, 2 * BLOCK_LEN)?;
    if !is_header(&header) {
        let detail = "no member header behind the PAX header, or its checksum is wrong";
        return Err(Error::corrupt(OP, detail).at(2 * BLOCK_LEN));
    }
    let records = records.get(..records_len).unwrap_or_default();
    let pax_bytes = pax_size(records).map_err(|error| error.at(BLOCK_LEN))?;
    let ustar_bytes = member_size(&header, 2 * BLOCK_LEN)?;
    Ok(Member {
        offset: PAX_PAYLOAD_OFFSET,
        bytes: pax_bytes.filter(|bytes| *bytes > 0).unwrap_or(ustar_bytes),
    })
}

fn read_block(source: &dyn ReadAt, offset: u64) -> Result<[u8; BLOCK_BYTES]> {
    let mut block = [0; BLOCK_BYTES];
    source.read_exact_at(offset, &mut block)?;
    Ok(block)
}

/// The size of a regular file whose header is at `offset`.
fn member_size(header: &[u8; BLOCK_BYTES], offset: u64) -> Result<u64> {
    match type_flag(header) {
        b'0' | 0 | b'7' => size_field(header, offset),
        other => {
            let detail = format!(
                "first member of type '{}', expected a regular file",
                other.escape_ascii()
            );
            Err(Error::new(ErrorKind::Unsupported, OP, detail).at(offset))
        }
    }
}

fn size_field(header: &[u8; BLOCK_BYTES], offset: u64) -> Result<u64> {
    let field = &header[124..136];
    octal(field).ok_or_else(|| {
        let detail = format!(
            "size field \"{}\", expected an octal number",
            field.escape_ascii()
        );
        Error::corrupt(OP, detail).at(offset)
    })
}

fn type_flag(header: &[u8; BLOCK_BYTES]) -> u8 {
    header[156]
}

fn is_header(block: &[u8; BLOCK_BYTES]) -> bool {
    block[257..262] == *b"ustar" && block[263..265] == *b"00" && has_right_checksum(block)
}

fn has_right_checksum(block: &[u8; BLOCK_BYTES]) -> bool {
    let unsigned = checksum(block);
    let signed = i64::from(unsigned) - 256 * high_bytes(block);
    let stored = octal(&block[148..156]).and_then(|stored| i64::try_from(stored).ok());
    stored.is_some_and(|stored| stored == i64::from(unsigned) || stored == signed)
}

/// Sum of all bytes, those of the checksum field taken as spaces.
pub(super) fn checksum(block: &[u8; BLOCK_BYTES]) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u32::from(*byte)).sum::<u32>();
    sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..])
}

/// Number of bytes that are negative when taken as signed, the checksum field left out.
fn high_bytes(block: &[u8; BLOCK_BYTES]) -> i64 {
    let field = block[..148].iter().chain(&block[156..]);
    field.map(|byte| i64::from(byte >> 7)).sum()
}

/// An octal number between optional spaces, ended by a space, a NUL or the end of the field.
/// A blank field is 0.
fn octal(field: &[u8]) -> Option<u64> {
    let number = field.trim_ascii_start();
    let end = number
        .iter()
        .position(|byte| matches!(byte, b' ' | 0))
        .unwrap_or(number.len());
    number.get(..end)?.iter().try_fold(0_u64, |value, digit| {
        let digit = matches!(digit, b'0'..=b'7').then(|| u64::from(digit - b'0'))?;
        value.checked_mul(8)?.checked_add(digit)
    })
}

/// The last `size` among PAX records, each `LENGTH KEY=VALUE` and a newline.
fn pax_size(mut records: &[u8]) -> Result<Option<u64>> {
    let mut size = None;
    while records.first().is_some_and(|byte| *byte != 0) {
        let (record, rest) = split_record(records).ok_or_else(|| {
            let shown = records.get(..32).unwrap_or(records).escape_ascii();
            let detail = format!("PAX record \"{shown}\", expected LENGTH KEY=VALUE");
            Error::corrupt(OP, detail)
        })?;
        if let Some(value) = record.strip_prefix(b"size=") {
            let bytes = decimal(value).ok_or_else(|| {
                let detail = format!("PAX size \"{}\", expected a number", value.escape_ascii());
                Error::corrupt(OP, detail)
            })?;
            size = Some(bytes);
        }
        records = rest;
    }
    Ok(size)
}

/// Cuts off the first record: its `KEY=VALUE` and what follows it.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let digits = records.iter().position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(records.get(..digits)?)?).ok()?;
    let (record, rest) = records.split_at_checked(len)?;
    let record = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    Some((record, rest))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}
