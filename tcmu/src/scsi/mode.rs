//! MODE SENSE and MODE SELECT: the parameters of the disk, none of which can be changed.
//!
//! cdb, execute -> **mode** -> reply
//!
//! Source: SPC-4 (MODE SENSE and MODE SELECT commands, control mode page), SBC-3 (caching, read-write
//! error recovery and informational exceptions control mode pages).

use crate::scsi::cdb::{Action, Cdb};
use crate::scsi::disk::Disk;
use crate::scsi::fields::be16;
use crate::scsi::reply::Reply;
use crate::scsi::sense::{Field, Sense, SenseKey};

/// Stands for all pages.
const ALL_PAGES: u8 = 0x3f;

/// Stands for a page and all its subpages, of which there are none.
const ALL_SUBPAGES: u8 = 0xff;

/// Bytes of the header of MODE SENSE and MODE SELECT, 6 and 10.
const HEADER_6_BYTES: usize = 4;
const HEADER_10_BYTES: usize = 8;

/// Page code and length.
const PAGE_HEADER_BYTES: usize = 2;

/// Device-specific parameter: write protection, and that DPO and FUA are known.
const WP: u8 = 0x80;
const DPOFUA: u8 = 0x10;

/// Whose values of the pages are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PageControl {
    /// The current ones. The default ones are the same.
    Current,
    /// A mask of the bits that can be changed: none.
    Changeable,
}

/// All pages in ascending order of their codes, with their headers.
fn pages(disk: &Disk) -> [Vec<u8>; 4] {
    // WCE: what is written is safe only after SYNCHRONIZE CACHE, or with FUA.
    let caching = if disk.is_writable { 0x04 } else { 0 };
    // GLTSD: log parameters are not saved. Unrestricted reordering: commands run side by side. No
    // limit to the time of being busy.
    let control = [0x02, 0x10, 0, 0, 0, 0, 0xff, 0xff];
    // DEXCPT: none are reported.
    let informational_exceptions = 0x08;
    [
        page(0x01, 10, &[]),
        page(0x08, 18, &[caching]),
        page(0x0a, 10, &control),
        page(0x1c, 10, &[informational_exceptions]),
    ]
}

/// A page of `len` bytes behind its header, which are `parameters` and zeros.
fn page(code: u8, len: u8, parameters: &[u8]) -> Vec<u8> {
    let mut page = [&[code, len], parameters].concat();
    page.resize(PAGE_HEADER_BYTES + usize::from(len), 0);
    page
}

fn code_of(page: &[u8]) -> u8 {
    page.first().copied().unwrap_or_default()
}

pub(crate) fn sense_6(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    let pages = asked_pages(cdb, disk)?;
    // At most 60 bytes.
    let len = u8::try_from(pages.len() + HEADER_6_BYTES - 1).unwrap_or(u8::MAX);
    let mut bytes = vec![len, 0, device_specific(disk), 0];
    bytes.extend(pages);
    Ok(Action::Reply(Reply::cut(bytes, u32::from(cdb[4]))))
}

pub(crate) fn sense_10(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    let pages = asked_pages(cdb, disk)?;
    let len = u16::try_from(pages.len() + HEADER_10_BYTES - 2).unwrap_or(u16::MAX);
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend([0, device_specific(disk), 0, 0, 0, 0]);
    bytes.extend(pages);
    Ok(Action::Reply(Reply::cut(bytes, u32::from(be16(cdb, 7)))))
}

fn device_specific(disk: &Disk) -> u8 {
    if disk.is_writable {
        DPOFUA
    } else {
        WP | DPOFUA
    }
}

/// The pages that bytes 2 and 3 ask for, one after the other. There are no block descriptors, so
/// that DBD and LLBAA change nothing.
fn asked_pages(cdb: &Cdb, disk: &Disk) -> Result<Vec<u8>, Sense> {
    let control = page_control(cdb[2] >> 6)?;
    if cdb[3] != 0 && cdb[3] != ALL_SUBPAGES {
        return Err(Sense::invalid_field(Field::cdb(3)));
    }
    let asked = cdb[2] & 0x3f;
    let is_asked = |page: &Vec<u8>| asked == ALL_PAGES || asked == code_of(page);
    let mut bytes = Vec::new();
    for mut page in pages(disk).into_iter().filter(is_asked) {
        if control == PageControl::Changeable {
            page.iter_mut()
                .skip(PAGE_HEADER_BYTES)
                .for_each(|byte| *byte = 0);
        }
        bytes.extend(page);
    }
    if bytes.is_empty() {
        return Err(Sense::invalid_field(Field::cdb_bit(2, 5)));
    }
    Ok(bytes)
}

fn page_control(bits: u8) -> Result<PageControl, Sense> {
    match bits {
        0 | 2 => Ok(PageControl::Current),
        1 => Ok(PageControl::Changeable),
        // SAVING PARAMETERS NOT SUPPORTED.
        _ => Err(Sense::new(SenseKey::IllegalRequest, 0x39, 0x00)),
    }
}

pub(crate) fn select_6(cdb: &Cdb, _disk: &Disk) -> Result<Action, Sense> {
    select(cdb, false, usize::from(cdb[4]))
}

pub(crate) fn select_10(cdb: &Cdb, _disk: &Disk) -> Result<Action, Sense> {
    select(cdb, true, usize::from(be16(cdb, 7)))
}

fn select(cdb: &Cdb, ten: bool, list_len: usize) -> Result<Action, Sense> {
    // PF: pages are as the standard has them.
    if cdb[1] & 0x10 == 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(1, 4)));
    }
    // SP: pages cannot be saved.
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(1, 0)));
    }
    Ok(match list_len {
        0 => Action::Done,
        list_len => Action::ModeSelect { ten, list_len },
    })
}

/// Takes the parameter list of a MODE SELECT, of 10 bytes if `ten`, that changes nothing.
///
/// # Errors
/// 26/00 pointing at what would be changed or is not known, 1A/00 for a list that ends inside a
/// header or page.
pub fn mode_select(list: &[u8], ten: bool, disk: &Disk) -> Result<(), Sense> {
    let (header_bytes, medium_type_at) = if ten {
        (HEADER_10_BYTES, 2)
    } else {
        (HEADER_6_BYTES, 1)
    };
    let header = list.get(..header_bytes);
    let header = header.ok_or(Sense::parameter_list_length())?;
    // The mode data length is reserved here, and WP and DPOFUA are ignored.
    if header.get(medium_type_at) != Some(&0) {
        return Err(Sense::invalid_field(Field::list(medium_type_at)));
    }
    let (has_block_descriptors, length_at) = if ten {
        (be16(header, 6) != 0, 6)
    } else {
        (header.get(3) != Some(&0), 3)
    };
    if has_block_descriptors {
        return Err(Sense::invalid_field(Field::list(length_at)));
    }
    let current = pages(disk);
    let mut at = header_bytes;
    while let Some(rest) = list.get(at..).filter(|rest| !rest.is_empty()) {
        at += check_page(rest, &current).map_err(|sense| within_list(sense, at))?;
    }
    Ok(())
}

/// Bytes of the page that `rest` starts with. Errors point into `rest`.
fn check_page(rest: &[u8], current: &[Vec<u8>]) -> Result<usize, Sense> {
    // PS is reserved here. SPF makes a code that no page has.
    let code = code_of(rest) & 0x7f;
    let page = current.iter().find(|page| code_of(page) == code);
    let page = page.ok_or(Sense::invalid_field(Field::list(0)))?;
    let wanted = page.iter().zip(rest).enumerate().skip(1);
    for (at, (is, wanted)) in wanted {
        if is != wanted {
            return Err(Sense::invalid_field(Field::list(at)));
        }
    }
    if rest.len() < page.len() {
        return Err(Sense::parameter_list_length());
    }
    Ok(page.len())
}

/// An error inside a page, told as one of the list that has the page at `start`.
fn within_list(mut sense: Sense, start: usize) -> Sense {
    if let Some(field) = sense.field {
        sense.field = Some(Field::list(start + usize::from(field.byte)));
    }
    sense
}
