//! The index of a sealed layer: entries on disk to checked mappings.
//!
//! image -> **lsmt index file** (at open only, no I/O)
//!
//! Rules, each broken one named with its entry:
//! - padding entries are dropped wherever they stand; entries of length 0 once they are checked.
//! - what is left is sorted and disjoint.
//! - data lies inside `[8, index_offset / 512)`; a zeroed entry's moffset may also be the end.
//! - tags on disk (merged layers carry them) are cleared.
//!
//! Source: format reference 1.3, 1.4 (5 to 7).

use super::mapping::{ENTRY_BYTES, Mapping};
use crate::error::{Error, Result};
use crate::limits::{BLOB_SECTOR_MAX, SECTOR_BYTES, SECTOR_INVALID};

const OP: &str = "read layer index";

/// First sector that can hold data: the header takes eight.
pub(super) const DATA_FIRST_SECTOR: u64 = 8;

/// Decodes and checks a whole index that starts at `index_offset_bytes` of its file.
///
/// # Errors
/// `Corrupt` at the byte offset of the first entry that breaks a rule.
pub fn parse_entries(bytes: &[u8], index_offset_bytes: u64) -> Result<Vec<Mapping>> {
    let data_end_sector = index_offset_bytes / SECTOR_BYTES;
    let (entries, _) = bytes.as_chunks::<ENTRY_BYTES>();
    let mut mappings = Vec::with_capacity(entries.len());
    let mut previous_end = 0;
    for (number, entry) in entries.iter().enumerate() {
        let mapping = Mapping::from_bytes(*entry).with_tag(0);
        if mapping.is_padding() {
            continue;
        }
        check_entry(mapping, previous_end, data_end_sector).map_err(|broken| {
            let place = index_offset_bytes + (number * ENTRY_BYTES) as u64;
            Error::corrupt(OP, format!("entry {number}: {broken}")).at(place)
        })?;
        previous_end = mapping.end();
        if mapping.sectors() > 0 {
            mappings.push(mapping);
        }
    }
    mappings.shrink_to_fit();
    Ok(mappings)
}

fn check_entry(
    mapping: Mapping,
    previous_end: u64,
    data_end_sector: u64,
) -> std::result::Result<(), String> {
    let (offset, sectors, moffset) = (mapping.offset(), mapping.sectors(), mapping.moffset());
    if mapping.end() > SECTOR_INVALID {
        return Err(format!(
            "{sectors} sectors at {offset} pass the largest address"
        ));
    }
    if offset < previous_end {
        let end = previous_end;
        return Err(format!(
            "starts at sector {offset}, the entry before ends at {end}"
        ));
    }
    let inside = if mapping.is_zeroed() {
        (DATA_FIRST_SECTOR..=data_end_sector).contains(&moffset)
    } else {
        let end = moffset + sectors;
        moffset >= DATA_FIRST_SECTOR && end > DATA_FIRST_SECTOR && end <= data_end_sector
    };
    // `trimmed` advances the moffset inside its 55 bits.
    if !inside || moffset > BLOB_SECTOR_MAX - sectors {
        let wanted = format!("[{DATA_FIRST_SECTOR}, {data_end_sector})");
        return Err(format!(
            "data sectors {moffset} + {sectors} are outside {wanted}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX_AT: u64 = 100 * SECTOR_BYTES;

    fn parse(mappings: &[Mapping]) -> Result<Vec<Mapping>> {
        let bytes: Vec<u8> = mappings
            .iter()
            .flat_map(|mapping| mapping.to_bytes())
            .collect();
        parse_entries(&bytes, INDEX_AT)
    }

    #[test]
    fn padding_is_dropped_anywhere_and_tags_are_cleared() {
        let found = parse(&[
            Mapping::PADDING,
            Mapping::data(0, 8, 8, 7),
            Mapping::PADDING,
            Mapping::zeroed(8, 8, 100, 3),
            Mapping::PADDING,
        ]);
        assert_eq!(
            found.unwrap(),
            [Mapping::data(0, 8, 8, 0), Mapping::zeroed(8, 8, 100, 0)]
        );
    }

    #[test]
    fn the_limits_of_the_data_area_are_exact() {
        assert!(parse(&[Mapping::data(0, 92, 8, 0)]).is_ok());
        assert!(parse(&[Mapping::data(0, 93, 8, 0)]).is_err());
        assert!(parse(&[Mapping::data(0, 1, 7, 0)]).is_err());
        assert!(parse(&[Mapping::data(0, 1, 100, 0)]).is_err());
        assert!(parse(&[Mapping::zeroed(0, 16383, 100, 0)]).is_ok());
        assert!(parse(&[Mapping::zeroed(0, 1, 101, 0)]).is_err());
        assert!(parse(&[Mapping::zeroed(0, 1, 7, 0)]).is_err());
    }

    #[test]
    fn unsorted_and_overlapping_entries_are_named() {
        let unsorted = parse(&[Mapping::data(8, 8, 8, 0), Mapping::data(0, 8, 16, 0)]);
        let text = unsorted.unwrap_err().to_string();
        assert!(
            text.contains("entry 1: starts at sector 0, the entry before ends at 16"),
            "{text}"
        );
        assert!(
            text.contains(&format!("at byte {}", INDEX_AT + 16)),
            "{text}"
        );
        let overlapping = parse(&[Mapping::data(0, 8, 8, 0), Mapping::data(7, 8, 16, 0)]);
        assert!(overlapping.is_err());
    }

    #[test]
    fn an_entry_of_length_0_is_dropped_but_an_all_zero_one_is_refused() {
        let mut empty = [0_u8; ENTRY_BYTES];
        assert!(parse_entries(&empty, INDEX_AT).is_err());
        empty[8] = 9;
        assert_eq!(parse_entries(&empty, INDEX_AT).unwrap(), []);
    }
}
