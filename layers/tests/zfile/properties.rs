//! Any file, options and range: a read gives what a slice of the input gives.

use layers::ReadAt;
use layers::zfile::{Algorithm, BuildOptions};
use proptest::prelude::*;

use crate::support::{build, decode, open};

fn options() -> impl Strategy<Value = BuildOptions> {
    let algorithm = prop_oneof![Just(Algorithm::Lz4), Just(Algorithm::Zstd)];
    (algorithm, 12..=16_u32, any::<bool>(), 1..=3_usize).prop_map(
        |(algorithm, block_shift, overwrite_header, threads)| BuildOptions {
            algorithm,
            block_bytes: 1 << block_shift,
            overwrite_header,
            threads,
        },
    )
}

/// Runs of random bytes, of one repeated byte and of short repeated patterns.
fn content(len: usize) -> impl Strategy<Value = Vec<u8>> {
    let run = (1..20_000_usize, 0..3_u8, any::<u64>());
    proptest::collection::vec(run, 1..30).prop_map(move |runs| {
        let mut bytes = Vec::new();
        for (run_len, kind, seed) in runs.iter().cycle() {
            if bytes.len() >= len {
                break;
            }
            let mut state = *seed | 1;
            bytes.extend((0..*run_len).map(|idx| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let byte = match kind {
                    0 => state,
                    1 => *seed,
                    _ => idx as u64 % 7,
                };
                byte.to_le_bytes()[0]
            }));
        }
        bytes.truncate(len);
        bytes
    })
}

/// A length around a multiple of the block size.
fn sized_content() -> impl Strategy<Value = (BuildOptions, Vec<u8>)> {
    (options(), 0..6_usize, 0..4_usize, 0..100_000_usize).prop_flat_map(
        |(options, blocks, edge, other)| {
            let whole = blocks * options.block_bytes as usize;
            let len = match edge {
                0 => whole,
                1 => whole + 1,
                2 => whole.saturating_sub(1),
                _ => other,
            };
            (Just(options), content(len))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn reads_of_any_range_equal_slices_of_the_input(
        (options, input) in sized_content(),
        ranges in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 8),
    ) {
        let zfile = open(build(&input, options)).unwrap();
        prop_assert_eq!(zfile.size(), input.len() as u64);
        for (a, b) in ranges {
            let (a, b) = (a.index(input.len() + 1), b.index(input.len() + 1));
            let (start, end) = (a.min(b), a.max(b));
            let mut buf = vec![0xAA; end - start];
            zfile.read_exact_at(start as u64, &mut buf).unwrap();
            prop_assert!(buf == input[start..end], "{}..{}", start, end);
        }
        let report = zfile.verify_all(|_| ()).unwrap();
        prop_assert!(report.is_sound());
    }

    #[test]
    fn files_with_damaged_bytes_give_an_error_or_the_input(
        (options, input) in sized_content(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut file = build(&input, options);
        for (at, byte) in damage {
            let at = at.index(file.len());
            file[at] = byte;
        }
        if let Ok(decoded) = decode(file) {
            prop_assert!(decoded == input);
        }
    }
}
