//! Complete index lookups: random sector in, trimmed mappings out.
//!
//! Run with `cargo bench -p layers --bench lookup`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use layers::lsmt::{Index, LookupPath, Mapping, SectorRange};

/// Lookups in one criterion iteration.
const BATCH: usize = 1024;

/// The sectors of a 4 KiB read.
const READ_SECTORS: u64 = 8;

/// `count` mappings of 8 to 120 sectors with holes between some of them, like a file system's.
fn mappings(count: usize) -> Vec<Mapping> {
    let mut random = Random(1);
    let (mut offset, mut moffset) = (0, 8);
    let mut mappings = Vec::with_capacity(count);
    for _ in 0..count {
        offset += 8 * (random.next() % 4);
        let sectors = 8 * (1 + random.next() % 15);
        mappings.push(Mapping::data(offset, sectors, moffset, 0));
        offset += sectors;
        moffset += sectors;
    }
    mappings
}

/// xorshift64*: the same sequence in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }
}

fn lookups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    group.throughput(Throughput::Elements(BATCH as u64));
    for count in [1_000, 10_000, 100_000, 1_000_000] {
        let mappings = mappings(count);
        let end = mappings.last().map_or(0, |last| last.end());
        let mut random = Random(2);
        let starts: Vec<u64> = (0..1 << 16)
            .map(|_| random.next() % (end / 8) * 8)
            .collect();
        for path in LookupPath::all() {
            let index = Index::with_path(mappings.clone(), *path);
            let mut batches = starts.chunks_exact(BATCH).cycle();
            group.bench_function(BenchmarkId::new(format!("{path:?}"), count), |bencher| {
                bencher.iter(|| {
                    for start in batches.next().into_iter().flatten() {
                        let range = SectorRange {
                            start: *start,
                            end: start + READ_SECTORS,
                        };
                        for mapping in index.lookup(range) {
                            black_box(mapping);
                        }
                    }
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lookups);
criterion_main!(benches);
