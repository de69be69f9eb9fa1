//! The 37-byte text field that names a layer or its parent.
//!
//! Source: format reference 0 (conventions) and 1.10: chains are recorded, never enforced.

use std::fmt;

const TEXT_BYTES: usize = 36;
const DASHES: [usize; 4] = [8, 13, 18, 23];

/// A layer's name, 16 bytes, written as upper-case text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// All zero: what "no uuid" looks like on disk.
    pub const NIL: Self = Self([0; 16]);

    /// The 128 bits, first byte highest.
    pub(super) fn from_bits(bits: u128) -> Self {
        Self(bits.to_be_bytes())
    }

    /// Parses 36 characters, upper or lower case. A hex digit at a dash position is skipped like
    /// the dash it stands for, as the C++ tools do.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != TEXT_BYTES {
            return None;
        }
        let mut bytes = [0_u8; 16];
        let mut digits = 0_usize;
        for (at, character) in text.chars().enumerate() {
            if DASHES.contains(&at) {
                if character != '-' && !character.is_ascii_hexdigit() {
                    return None;
                }
                continue;
            }
            let value = u8::try_from(character.to_digit(16)?).ok()?;
            let byte = bytes.get_mut(digits / 2)?;
            *byte = *byte << 4 | value;
            digits += 1;
        }
        Some(Self(bytes))
    }

    /// Reads the on-disk field. Text that is no uuid (old files hold garbage) counts as nil.
    #[must_use]
    pub fn from_field(field: &[u8]) -> Self {
        field
            .get(..TEXT_BYTES)
            .and_then(|text| std::str::from_utf8(text).ok())
            .and_then(Self::parse)
            .unwrap_or(Self::NIL)
    }

    /// True for the all-zero uuid.
    #[must_use]
    pub fn is_nil(&self) -> bool {
        *self == Self::NIL
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_written_upper_case_and_read_in_either() {
        let text = "c02fb491-b4d4-4904-8684-a014d032af78";
        let uuid = Uuid::parse(text).unwrap();
        assert_eq!(uuid.to_string(), text.to_uppercase());
        assert_eq!(Uuid::parse(&uuid.to_string()), Some(uuid));
    }

    #[test]
    fn nil_is_written_as_zeros_not_as_an_empty_string() {
        assert_eq!(
            Uuid::NIL.to_string(),
            "00000000-0000-0000-0000-000000000000"
        );
    }

    #[test]
    fn wrong_length_or_characters_are_refused() {
        assert_eq!(Uuid::parse("c02fb491"), None);
        assert_eq!(Uuid::parse("c02fb491-b4d4-4904-8684-a014d032af7z"), None);
        assert_eq!(Uuid::from_field(&[0xff; 37]), Uuid::NIL);
    }
}
