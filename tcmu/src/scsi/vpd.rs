//! Vital product data: what the disk is called and what it can do.
//!
//! inquiry -> **vpd** -> disk, limits
//!
//! Source: SPC-4 (vital product data parameters: pages 00, 80, 83), SBC-3 (pages B0, B1, B2).
//! Invariant: limits are those that commands are checked against.

use crate::scsi::disk::Disk;
use crate::scsi::inquiry::VENDOR;
use crate::scsi::limits::{
    GRANULARITY_BLOCKS, UNMAP_BLOCKS_MAX, UNMAP_DESCRIPTORS_MAX, WRITE_SAME_BLOCKS_MAX,
};

/// Every page there is, in ascending order.
const PAGES: [u8; 6] = [0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2];

/// A designator's length is one byte.
const DESIGNATOR_BYTES_MAX: usize = 255;

/// Code sets of designators.
const BINARY: u8 = 1;
const ASCII: u8 = 2;
const UTF_8: u8 = 3;

/// Types of designators.
const VENDOR_SPECIFIC: u8 = 0;
const T10_VENDOR: u8 = 1;
const NAA: u8 = 3;

/// The page of a code with its header, or `None` when there is none.
pub(crate) fn page(code: u8, disk: &Disk) -> Option<Vec<u8>> {
    let body = match code {
        0x00 => PAGES.to_vec(),
        0x80 => unit_serial_number(disk),
        0x83 => device_identification(disk),
        0xb0 => block_limits(disk).to_vec(),
        0xb1 => block_device_characteristics().to_vec(),
        0xb2 => logical_block_provisioning(disk).to_vec(),
        _ => return None,
    };
    // Bodies are far shorter than 64 KiB: designators and serial are cut.
    let len = u16::try_from(body.len()).ok()?;
    let mut page = vec![0, code];
    page.extend(len.to_be_bytes());
    page.extend(body);
    Some(page)
}

/// A serial that is not known is blank.
fn unit_serial_number(disk: &Disk) -> Vec<u8> {
    match serial(disk, DESIGNATOR_BYTES_MAX) {
        empty if empty.is_empty() => vec![b' '; 4],
        serial => serial,
    }
}

/// The serial as ASCII data: printable characters, at most `bytes_max` of them.
fn serial(disk: &Disk, bytes_max: usize) -> Vec<u8> {
    let characters = disk.serial.bytes().take(bytes_max);
    let printable = |byte: u8| (0x20..0x7f).contains(&byte);
    characters
        .map(|byte| if printable(byte) { byte } else { b'_' })
        .collect()
}

/// The names of the disk: vendor and serial, world wide name, `dev_config`.
///
/// Without a serial there are no first two: all such disks of a host would share them, and the
/// initiator would take the disks for paths to one.
fn device_identification(disk: &Disk) -> Vec<u8> {
    let mut body = Vec::new();
    let serial = serial(disk, DESIGNATOR_BYTES_MAX - VENDOR.len());
    if !serial.is_empty() {
        let name = [&VENDOR[..], &serial].concat();
        add_designator(&mut body, ASCII, T10_VENDOR, &name);
    }
    if let Some(name) = world_wide_name(&disk.serial) {
        add_designator(&mut body, BINARY, NAA, &name);
    }
    let description = cut(&disk.description, DESIGNATOR_BYTES_MAX);
    let code_set = if description.is_ascii() { ASCII } else { UTF_8 };
    add_designator(&mut body, code_set, VENDOR_SPECIFIC, description.as_bytes());
    body
}

/// `designator` is at most [`DESIGNATOR_BYTES_MAX`] long; an empty one says nothing and is left out.
fn add_designator(body: &mut Vec<u8>, code_set: u8, designator_type: u8, designator: &[u8]) {
    let len = u8::try_from(designator.len()).unwrap_or(0);
    if len > 0 {
        body.extend([code_set, designator_type, 0, len]);
        body.extend(designator);
    }
}

/// NAA 6 (IEEE registered extended), company 00-14-05 (OpenFabrics), then the hexadecimal digits
/// of the serial as the kernel's own target takes them: 25 of them, zeros for those that lack.
fn world_wide_name(serial: &str) -> Option<[u8; 16]> {
    let mut name = [0; 16];
    name[..4].copy_from_slice(&[0x60, 0x01, 0x40, 0x50]);
    let mut digits = serial.chars().filter_map(|digit| digit.to_digit(16));
    let mut next_digit = || digits.next().and_then(|digit| u8::try_from(digit).ok());
    name[3] |= next_digit()?;
    for byte in name.iter_mut().skip(4) {
        *byte = next_digit().unwrap_or(0) << 4 | next_digit().unwrap_or(0);
    }
    Some(name)
}

/// The longest start of `text` that is whole characters and at most `bytes_max` long.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = text.floor_char_boundary(bytes_max);
    text.get(..end).unwrap_or_default()
}

/// Block limits. OPTIMAL TRANSFER LENGTH is not reported: Linux would cut every transfer to it
/// and read twice as much ahead.
fn block_limits(disk: &Disk) -> [u8; 60] {
    let mut body = [0; 60];
    body[0] = 0x01; // WSNZ: WRITE SAME of no blocks is not all the blocks
    body[2..4].copy_from_slice(&GRANULARITY_BLOCKS.to_be_bytes());
    body[4..8].copy_from_slice(&disk.transfer_limit().to_be_bytes());
    if disk.is_writable {
        body[16..20].copy_from_slice(&UNMAP_BLOCKS_MAX.to_be_bytes());
        body[20..24].copy_from_slice(&UNMAP_DESCRIPTORS_MAX.to_be_bytes());
        body[24..28].copy_from_slice(&u32::from(GRANULARITY_BLOCKS).to_be_bytes());
        body[28] = 0x80; // UGAVALID: aligned to block 0
        body[32..40].copy_from_slice(&u64::from(WRITE_SAME_BLOCKS_MAX).to_be_bytes());
    }
    body
}

/// Block device characteristics: a medium that does not turn.
fn block_device_characteristics() -> [u8; 60] {
    let mut body = [0; 60];
    body[1] = 1; // medium rotation rate
    body
}

/// Logical block provisioning: what a read-only disk has no use for.
fn logical_block_provisioning(disk: &Disk) -> [u8; 4] {
    if disk.is_writable {
        [0, 0xe4, 0x02, 0] // LBPU, LBPWS, LBPWS10, LBPRZ; thin provisioned
    } else {
        [0; 4]
    }
}
