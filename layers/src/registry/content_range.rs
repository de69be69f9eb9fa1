//! The `Content-Range` of an answer.
//!
//! answer -> **content range**
//!
//! Source: RFC 9110, 14.4.

/// What the header says, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentRange {
    /// These bytes, both ends included, of so many; `None` = not known.
    Bytes {
        /// The first byte.
        first: u64,
        /// The last byte; not below `first`.
        last: u64,
        /// The size of the whole; above `last`.
        total: Option<u64>,
    },
    /// No bytes (416), of so many.
    Unsatisfied {
        /// The size of the whole.
        total: u64,
    },
}

impl ContentRange {
    /// `None` for what breaks the rules.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.trim().split_once([' ', '\t'])?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.split_once('/')?;
        let total = match total.trim() {
            "*" => None,
            total => Some(number(total)?),
        };
        if range.trim() == "*" {
            return Some(Self::Unsatisfied { total: total? });
        }
        let (first, last) = range.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        let fits = first <= last && last < total.unwrap_or(u64::MAX);
        fits.then_some(Self::Bytes { first, last, total })
    }

    /// The size of the whole, when it is said.
    #[must_use]
    pub fn total(self) -> Option<u64> {
        match self {
            Self::Bytes { total, .. } => total,
            Self::Unsatisfied { total } => Some(total),
        }
    }
}

/// Digits only: `parse` would take a sign.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_breaks_the_rules_is_refused() {
        for text in [
            "",
            "bytes",
            "bytes ",
            "bytes 0-1",
            "bytes 0-1/",
            "bytes 1-0/5",
            "bytes 0-5/5",
            "bytes +0-1/5",
            "bytes 0--1/5",
            "bytes */*",
            "items 0-1/5",
            "bytes 0-1/0x5",
            "bytes -/5",
            "bytes 0-18446744073709551615/*",
            "bytes 0-18446744073709551616/*",
        ] {
            assert_eq!(ContentRange::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_size_may_be_all_that_is_said_or_be_missing() {
        let none = ContentRange::parse("bytes */7").unwrap();
        assert_eq!(none, ContentRange::Unsatisfied { total: 7 });
        let range = ContentRange::parse("Bytes 3-4/*").unwrap();
        assert_eq!(range.total(), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(first in 0..u64::MAX / 2, len in 0..u64::MAX / 4, after in 1..u64::MAX / 4) {
            let (last, total) = (first + len, first + len + after);
            let parsed = ContentRange::parse(&format!("bytes {first}-{last}/{total}"));
            prop_assert_eq!(parsed, Some(ContentRange::Bytes { first, last, total: Some(total) }));
        }

        #[test]
        fn any_text_is_answered(text in "[bytes0-9 */-]{0,40}|.{0,40}") {
            if let Some(ContentRange::Bytes { first, last, total }) = ContentRange::parse(&text) {
                prop_assert!(first <= last && total.is_none_or(|total| last < total));
            }
        }
    }
}
