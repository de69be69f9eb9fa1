//! Any bytes as the record of a cached blob: its header is decoded, and a blob with such a record is
//! opened and read. What is served must be the origin's bytes, whatever the record says.
//!
//! The first byte chooses: 0 puts the rest over a sound record from its start on, any other over the
//! states of its chunks.
#![no_main]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use layers::cache::{BlobUse, Cache, Patience, Place, decode_header};
use layers::config::CacheConfig;
use layers::range_source::{RangeSource, Sink, Urgency};
use layers::{ReadAt, Result};

const BLOB_BYTES: u64 = 600_001;
const STATES_OFFSET: u64 = 4096;
/// Not written over: who forges checksums may serve what he likes.
const CHECKSUMS_OFFSET: u64 = 8192;

#[derive(Debug)]
struct Sevens;

impl RangeSource for Sevens {
    fn name(&self) -> &str {
        "sevens"
    }

    fn size(&self, _deadline: Instant) -> Result<u64> {
        Ok(BLOB_BYTES)
    }

    fn fetch(
        &self,
        range: Range<u64>,
        _urgency: Urgency,
        _deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let len = usize::try_from(range.end - range.start).unwrap_or(0);
        sink(&vec![7; len])
    }
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let Some((place, rest)) = input.split_first() else {
        return;
    };
    drop(decode_header(rest, rest.len() as u64));
    let offset = if *place == 0 { 0 } else { STATES_OFFSET };
    let read = read_with_record(offset, rest);
    assert!(read.is_ok_and(|right| right), "wrong bytes");
});

/// Opens a blob, damages its record, and opens and reads it again.
fn read_with_record(
    offset: u64,
    bytes: &[u8],
) -> std::result::Result<bool, Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let config = CacheConfig {
        dir: dir.path().to_owned(),
        free_floor_mib: 0,
        ..CacheConfig::default()
    };
    let digest = format!("sha256:{}", "7".repeat(64));
    let open = || -> Result<_> {
        let cache = Cache::open(&config, &Arc::default(), &Arc::default())?;
        let wanted = BlobUse {
            digest: digest.clone(),
            place: Place::Shared,
            patience: Arc::new(Patience::new(Duration::from_secs(60))),
            journal: Arc::default(),
        };
        cache.blob(Arc::new(Sevens), wanted)
    };
    open()?.prefetch(0..100_000, Urgency::Guest)?;
    let record = dir.path().join(format!("{digest}.chunks"));
    let record = std::fs::File::options().write(true).open(record)?;
    let room = usize::try_from(CHECKSUMS_OFFSET - offset)?;
    let bytes = bytes.get(..room).unwrap_or(bytes);
    std::os::unix::fs::FileExt::write_all_at(&record, bytes, offset)?;
    let blob = open()?;
    let mut buf = vec![0; usize::try_from(BLOB_BYTES)?];
    blob.read_exact_at(0, &mut buf)?;
    Ok(buf.iter().all(|byte| *byte == 7))
}
