//! Why a command failed, as the initiator is told.
//!
//! every module of scsi -> **sense** -> ring
//!
//! Fixed format, current information. Source: SPC-4 (fixed format sense data).

use std::fmt;

/// Bytes of sense data in a ring entry.
pub const SENSE_BYTES: usize = 96;

/// Bytes of it that mean something.
pub(crate) const FIXED_SENSE_BYTES: usize = 18;

/// The class of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to tell.
    NoSense = 0x0,
    /// The disk cannot be used now.
    NotReady = 0x2,
    /// The medium did not keep the data, or does not take it.
    MediumError = 0x3,
    /// The daemon, or what feeds it, is out of order.
    HardwareError = 0x4,
    /// The command makes no sense.
    IllegalRequest = 0x5,
    /// What was to be changed is protected.
    DataProtect = 0x7,
}

/// Where the bad field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the command block.
    Cdb,
    /// In the data-out of the command.
    ParameterList,
}

/// The field that is in error (the field pointer of the sense key specific data).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// Where [`Field::byte`] counts from.
    pub place: Place,
    /// The first byte of the field.
    pub byte: u16,
    /// The most significant bit of a field that is less than a byte.
    pub bit: Option<u8>,
}

impl Field {
    /// A field of whole bytes in the command block.
    pub(crate) const fn cdb(byte: u16) -> Self {
        Self {
            place: Place::Cdb,
            byte,
            bit: None,
        }
    }

    /// A field of the command block whose most significant bit is `bit`.
    pub(crate) const fn cdb_bit(byte: u16, bit: u8) -> Self {
        Self {
            place: Place::Cdb,
            byte,
            bit: Some(bit),
        }
    }

    /// A field of whole bytes in the parameter list. A place that a field pointer cannot tell is
    /// told as the last that it can.
    pub(crate) fn list(byte: usize) -> Self {
        Self {
            place: Place::ParameterList,
            byte: u16::try_from(byte).unwrap_or(u16::MAX),
            bit: None,
        }
    }
}

/// Sense data of one failed command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: SenseKey,
    /// Additional sense code.
    pub asc: u8,
    /// Additional sense code qualifier.
    pub ascq: u8,
    /// For an address out of range: the first block that is not there.
    ///
    /// Not for failed reads: Linux takes the blocks before this one for read.
    pub information: Option<u64>,
    /// The field in error of an illegal request.
    pub field: Option<Field>,
}

impl Sense {
    /// Sense data of a key and a code, and nothing more.
    #[must_use]
    pub const fn new(key: SenseKey, asc: u8, ascq: u8) -> Self {
        Self {
            key,
            asc,
            ascq,
            information: None,
            field: None,
        }
    }

    /// INVALID COMMAND OPERATION CODE.
    #[must_use]
    pub const fn invalid_opcode() -> Self {
        Self::new(SenseKey::IllegalRequest, 0x20, 0x00)
    }

    /// INVALID FIELD IN CDB, or IN PARAMETER LIST.
    pub(crate) const fn invalid_field(field: Field) -> Self {
        let asc = match field.place {
            Place::Cdb => 0x24,
            Place::ParameterList => 0x26,
        };
        let mut sense = Self::new(SenseKey::IllegalRequest, asc, 0x00);
        sense.field = Some(field);
        sense
    }

    /// PARAMETER LIST LENGTH ERROR: the list ends inside a structure.
    #[must_use]
    pub const fn parameter_list_length() -> Self {
        Self::new(SenseKey::IllegalRequest, 0x1a, 0x00)
    }

    /// LOGICAL BLOCK ADDRESS OUT OF RANGE; `lba` is the first block that is not there.
    #[must_use]
    pub const fn lba_out_of_range(lba: u64) -> Self {
        let mut sense = Self::new(SenseKey::IllegalRequest, 0x21, 0x00);
        sense.information = Some(lba);
        sense
    }

    /// WRITE PROTECTED.
    #[must_use]
    pub const fn write_protected() -> Self {
        Self::new(SenseKey::DataProtect, 0x27, 0x00)
    }

    /// UNRECOVERED READ ERROR.
    #[must_use]
    pub const fn read_error() -> Self {
        Self::new(SenseKey::MediumError, 0x11, 0x00)
    }

    /// WRITE ERROR.
    #[must_use]
    pub const fn write_error() -> Self {
        Self::new(SenseKey::MediumError, 0x0c, 0x00)
    }

    /// As it stands in a ring entry: the fixed format, then zeros.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; SENSE_BYTES] {
        let mut bytes = [0; SENSE_BYTES];
        bytes[0] = 0x70;
        // A block address of more than 32 bits has no place in the fixed format.
        if let Some(information) = self.information.and_then(|lba| u32::try_from(lba).ok()) {
            bytes[0] |= 0x80;
            bytes[3..7].copy_from_slice(&information.to_be_bytes());
        }
        bytes[2] = self.key as u8;
        bytes[7] = 10; // bytes that follow this one
        bytes[12] = self.asc;
        bytes[13] = self.ascq;
        if let Some(field) = self.field {
            bytes[15] = 0x80;
            if field.place == Place::Cdb {
                bytes[15] |= 0x40;
            }
            if let Some(bit) = field.bit {
                bytes[15] |= 0x08 | (bit & 7);
            }
            bytes[16..18].copy_from_slice(&field.byte.to_be_bytes());
        }
        bytes
    }
}

impl fmt::Display for Sense {
    /// As in the tables of the standard: `05/21/00`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, asc, ascq, .. } = self;
        write!(f, "{:02x}/{asc:02x}/{ascq:02x}", *key as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that mean something; those behind them must be zero.
    fn fixed(sense: Sense) -> [u8; FIXED_SENSE_BYTES] {
        let bytes = sense.to_bytes();
        assert!(bytes[FIXED_SENSE_BYTES..].iter().all(|&byte| byte == 0));
        bytes[..FIXED_SENSE_BYTES].try_into().unwrap()
    }

    #[test]
    fn is_fixed_format_current_information() {
        assert_eq!(
            fixed(Sense::read_error()),
            [0x70, 0, 3, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            fixed(Sense::write_protected()),
            [0x70, 0, 7, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x27, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn an_address_out_of_range_is_named() {
        assert_eq!(
            fixed(Sense::lba_out_of_range(0x0102_0304)),
            [0xf0, 0, 5, 1, 2, 3, 4, 10, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn an_address_that_the_fixed_format_cannot_hold_is_not_valid() {
        assert_eq!(
            fixed(Sense::lba_out_of_range(1 << 32)),
            [0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn the_field_in_error_is_pointed_at() {
        assert_eq!(
            fixed(Sense::invalid_field(Field::cdb(2))),
            [
                0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xc0, 0, 2
            ]
        );
        assert_eq!(
            fixed(Sense::invalid_field(Field::cdb_bit(1, 7))),
            [
                0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcf, 0, 1
            ]
        );
        assert_eq!(
            fixed(Sense::invalid_field(Field::list(0x102))),
            [
                0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x26, 0, 0, 0x80, 1, 2
            ]
        );
    }

    #[test]
    fn reads_as_in_the_tables_of_the_standard() {
        assert_eq!(Sense::lba_out_of_range(7).to_string(), "05/21/00");
    }
}
