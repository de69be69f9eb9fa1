//! INQUIRY and REQUEST SENSE.
//!
//! cdb -> **inquiry** -> vpd, reply
//!
//! Source: SPC-4 (INQUIRY command, REQUEST SENSE command); format reference 8.5 (the names).

use crate::scsi::cdb::{Action, Cdb};
use crate::scsi::disk::Disk;
use crate::scsi::fields::be16;
use crate::scsi::reply::Reply;
use crate::scsi::sense::{FIXED_SENSE_BYTES, Field, Sense, SenseKey};
use crate::scsi::vpd;

/// As in a T10 vendor designator.
pub(crate) const VENDOR: &[u8; 8] = b"LIO-ORG ";

/// A connected disk (peripheral qualifier 0, device type 0) that claims SPC-3, has a fixed medium
/// and no features but command queueing.
const STANDARD_HEADER: [u8; 8] = [
    0x00, 0x00, 0x05, // SPC-3
    0x02, // response data format
    31,   // bytes that follow this one
    0x00, 0x00, 0x02, // CMDQUE
];

const PRODUCT: &[u8; 16] = b"TCMU device     ";
const REVISION: &[u8; 4] = b"0002";

/// The standard page, or one of the vital product data.
pub(crate) fn inquiry(cdb: &Cdb, disk: &Disk) -> Result<Action, Sense> {
    // CMDDT, which is obsolete.
    if cdb[1] & 0x02 != 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(1, 1)));
    }
    let is_vital = cdb[1] & 0x01 != 0;
    let page_code = cdb[2];
    let page = match (is_vital, page_code) {
        (true, code) => vpd::page(code, disk),
        (false, 0) => Some([&STANDARD_HEADER[..], VENDOR, PRODUCT, REVISION].concat()),
        (false, _) => None,
    };
    let page = page.ok_or(Sense::invalid_field(Field::cdb(2)))?;
    Ok(Action::Reply(Reply::cut(page, u32::from(be16(cdb, 3)))))
}

/// Sense data comes with the command that failed; there is none to ask for.
pub(crate) fn request_sense(cdb: &Cdb, _disk: &Disk) -> Result<Action, Sense> {
    // DESC: there is no descriptor format.
    if cdb[1] & 0x01 != 0 {
        return Err(Sense::invalid_field(Field::cdb_bit(1, 0)));
    }
    let mut bytes = Sense::new(SenseKey::NoSense, 0, 0).to_bytes().to_vec();
    bytes.truncate(FIXED_SENSE_BYTES);
    Ok(Action::Reply(Reply::cut(bytes, u32::from(cdb[4]))))
}
