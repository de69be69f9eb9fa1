//! What a 4 KiB read of a cached blob costs beside one of a local file: both from the page cache.
//!
//! Run with `cargo bench -p layers --bench cache_hit`.
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use layers::cache::{BlobUse, Cache, Patience, Place};
use layers::config::CacheConfig;
use layers::io::LocalFile;
use layers::range_source::{RangeSource, Sink, Urgency};
use layers::{Dest, Progress, ReadAt, Result, Wait};

const READ_BYTES: usize = 4096;
const FILE_BYTES: usize = 64 << 20;

#[derive(Debug)]
struct Sevens;

impl RangeSource for Sevens {
    fn name(&self) -> &str {
        "sevens"
    }

    fn size(&self, _deadline: Instant) -> Result<u64> {
        Ok(FILE_BYTES as u64)
    }

    fn fetch(
        &self,
        range: Range<u64>,
        _urgency: Urgency,
        _deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        sink(&vec![7; usize::try_from(range.end - range.start).unwrap()])
    }
}

fn place(number: &mut u64) -> u64 {
    *number = number
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*number >> 33) % (FILE_BYTES / READ_BYTES) as u64 * READ_BYTES as u64
}

fn reads(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let local_path = dir.path().join("local");
    std::fs::write(&local_path, vec![7; FILE_BYTES]).unwrap();
    let local = LocalFile::open(&local_path).unwrap();
    let config = CacheConfig {
        dir: dir.path().join("cache"),
        free_floor_mib: 0,
        ..CacheConfig::default()
    };
    let cache = Cache::open(&config, &Arc::default(), &Arc::default()).unwrap();
    let wanted = BlobUse {
        digest: format!("sha256:{}", "7".repeat(64)),
        place: Place::Shared,
        patience: Arc::new(Patience::new(Duration::from_secs(60))),
        journal: Arc::default(),
    };
    let cached = cache.blob(Arc::new(Sevens), wanted).unwrap();
    cached
        .prefetch(0..FILE_BYTES as u64, Urgency::Guest)
        .unwrap();
    let files: [(&str, &dyn ReadAt); 2] = [("local file", &local), ("cached blob", &cached)];
    let mut group = criterion.benchmark_group("4 KiB read");
    group.throughput(Throughput::Elements(1));
    let mut buf = vec![0_u8; READ_BYTES];
    for (name, file) in files {
        let mut seed = 1;
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let offset = place(&mut seed);
                let progress = file.read_at(offset, Dest::from(&mut buf[..]), Wait::Never);
                if progress.unwrap() == Progress::Pending {
                    file.read_exact_at(offset, &mut buf).unwrap();
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, reads);
criterion_main!(benches);
