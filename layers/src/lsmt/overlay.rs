//! Merging the indexes of a stack into one.
//!
//! image -> **lsmt overlay** (at open only)
//!
//! Invariants
//! - input and output are sorted by offset and disjoint.
//! - where layers meet, the upper one wins; a zeroed mapping wins like data does.
//! - overlaying is associative, so layers are merged pairwise in a balanced tree: every mapping
//!   is copied log2(layers) times, not once per layer.
//!
//! Source: format reference 1.10.

use super::mapping::{Mapping, SectorRange};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::MERGED_MAPPINGS_MAX;

/// Merges the sorted mappings of all layers, `layers[0]` on top. Tags are kept.
///
/// # Errors
/// `Unsupported` when the result would pass [`MERGED_MAPPINGS_MAX`].
pub fn merge_layers(mut layers: Vec<Vec<Mapping>>) -> Result<Vec<Mapping>> {
    while layers.len() > 1 {
        let mut merged = Vec::with_capacity(layers.len().div_ceil(2));
        let mut pairs = layers.into_iter();
        while let Some(upper) = pairs.next() {
            merged.push(match pairs.next() {
                Some(lower) => overlay(&upper, &lower)?,
                None => upper,
            });
        }
        layers = merged;
    }
    Ok(layers.pop().unwrap_or_default())
}

/// Lays `upper` over `lower`.
fn overlay(upper: &[Mapping], lower: &[Mapping]) -> Result<Vec<Mapping>> {
    let mut merged = Vec::with_capacity(upper.len() + lower.len());
    let mut below = Below {
        rest: lower.iter(),
        current: None,
    };
    let mut position = 0;
    for mapping in upper {
        below.copy_into(
            &mut merged,
            SectorRange {
                start: position,
                end: mapping.offset(),
            },
        );
        merged.push(*mapping);
        position = mapping.end();
        check_size(&merged)?;
    }
    below.copy_into(
        &mut merged,
        SectorRange {
            start: position,
            end: u64::MAX,
        },
    );
    check_size(&merged)?;
    Ok(merged)
}

fn check_size(merged: &[Mapping]) -> Result<()> {
    if merged.len() > MERGED_MAPPINGS_MAX {
        let detail = format!("more than {MERGED_MAPPINGS_MAX} mappings in the merged index");
        return Err(Error::new(
            ErrorKind::Unsupported,
            "merge layer indexes",
            detail,
        ));
    }
    Ok(())
}

/// The lower layer, consumed in step with the gaps of the upper one.
struct Below<'a> {
    rest: std::slice::Iter<'a, Mapping>,
    current: Option<Mapping>,
}

impl Below<'_> {
    /// Appends everything inside `gap`. Gaps come in ascending order.
    fn copy_into(&mut self, merged: &mut Vec<Mapping>, gap: SectorRange) {
        while let Some(mapping) = self.current.take().or_else(|| self.rest.next().copied()) {
            merged.extend(mapping.trimmed(gap));
            if mapping.end() > gap.end {
                // Reaches past the gap: the next gap may show the rest of it.
                self.current = Some(mapping);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sorted disjoint mappings from (gap, length, zeroed) triples.
    fn layer(tag: u8, parts: &[(u64, u64, bool)]) -> Vec<Mapping> {
        let (mut at, mut moffset) = (0, 8);
        let mut mappings = Vec::new();
        for (gap, sectors, zeroed) in parts {
            at += gap;
            mappings.push(match zeroed {
                true => Mapping::zeroed(at, *sectors, moffset, tag),
                false => Mapping::data(at, *sectors, moffset, tag),
            });
            at += sectors;
            moffset += sectors;
        }
        mappings
    }

    /// What each sector reads: layer, and data sector unless zeroed.
    fn paint(disk: &mut [Option<(u8, Option<u64>)>], mappings: &[Mapping]) {
        for mapping in mappings {
            for sector in mapping.offset()..mapping.end() {
                let data = mapping.moffset() + (sector - mapping.offset());
                let data = (!mapping.is_zeroed()).then_some(data);
                disk[usize::try_from(sector).unwrap()] = Some((mapping.tag(), data));
            }
        }
    }

    proptest! {
        #[test]
        fn merging_equals_painting_the_layers_bottom_up(
            stacks in prop::collection::vec(
                prop::collection::vec((0_u64..20, 1_u64..30, any::<bool>()), 0..30), 0..6)
        ) {
            let layers: Vec<_> = stacks.iter().enumerate()
                .map(|(tag, parts)| layer(u8::try_from(tag).unwrap(), parts)).collect();
            let mut expected = vec![None; 2000];
            for mappings in layers.iter().rev() {
                paint(&mut expected, mappings);
            }
            let merged = merge_layers(layers).unwrap();
            for pair in merged.windows(2) {
                prop_assert!(pair[0].end() <= pair[1].offset());
            }
            let mut found = vec![None; 2000];
            paint(&mut found, &merged);
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_zeroed_mapping_hides_the_layer_below() {
        let upper = vec![Mapping::zeroed(4, 4, 8, 0)];
        let lower = vec![Mapping::data(0, 16, 8, 1)];
        let merged = merge_layers(vec![upper, lower]).unwrap();
        let expected = vec![
            Mapping::data(0, 4, 8, 1),
            Mapping::zeroed(4, 4, 8, 0),
            Mapping::data(8, 8, 16, 1),
        ];
        assert_eq!(merged, expected);
    }
}
