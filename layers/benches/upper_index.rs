//! The index of a writable layer under random 4 KiB writes and lookups, beside a `BTreeMap`
//! from first sector to mapping that does the same.
//!
//! The disk is twice as large as what is written; an iteration of `write` puts one mapping at a
//! random place and takes one away at another, so that the size stays what the name says.
//!
//! Run with `cargo bench -p layers --bench upper_index`. The large sizes need 2 GB of memory.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use layers::lsmt::{Mapping, SectorRange, UpperIndex};

/// Operations in one criterion iteration.
const BATCH: u64 = 1024;

const WRITE_SECTORS: u64 = 8;

/// xorshift64*: the same sequence in every run.
struct Random(u64);

impl Random {
    fn range(&mut self, blocks: u64) -> SectorRange {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let start = (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % blocks * WRITE_SECTORS;
        SectorRange {
            start,
            end: start + WRITE_SECTORS,
        }
    }
}

/// What both sides can do.
trait Contender: Default {
    const NAME: &str;
    fn insert(&mut self, mapping: Mapping);
    fn remove(&mut self, range: SectorRange);
    fn lookup(&self, range: SectorRange, found: &mut [Mapping]) -> usize;
    fn len(&self) -> usize;
}

impl Contender for UpperIndex {
    const NAME: &str = "upper index";

    fn insert(&mut self, mapping: Mapping) {
        self.insert(mapping, |part| {
            black_box(part);
        });
    }

    fn remove(&mut self, range: SectorRange) {
        self.remove(range, |part| {
            black_box(part);
        });
    }

    fn lookup(&self, range: SectorRange, found: &mut [Mapping]) -> usize {
        self.lookup(range, found)
    }

    fn len(&self) -> usize {
        self.len()
    }
}

#[derive(Default)]
struct Map(BTreeMap<u64, Mapping>);

impl Map {
    /// First offset of a mapping that meets the range, or the start of the range.
    fn first(&self, range: SectorRange) -> u64 {
        let before = self.0.range(..range.start).next_back();
        before
            .filter(|(_, mapping)| mapping.end() > range.start)
            .map_or(range.start, |(offset, _)| *offset)
    }
}

impl Contender for Map {
    const NAME: &str = "BTreeMap";

    fn insert(&mut self, mapping: Mapping) {
        self.remove(mapping.range());
        self.0.insert(mapping.offset(), mapping);
    }

    fn remove(&mut self, range: SectorRange) {
        let mut from = self.first(range);
        while let Some((offset, old)) = self.0.range(from..range.end).next() {
            let (offset, old) = (*offset, *old);
            self.0.remove(&offset);
            black_box(old.trimmed(range));
            let (left, right) = ((0, range.start), (range.end, u64::MAX));
            for (start, end) in [left, right] {
                if let Some(rest) = old.trimmed(SectorRange { start, end }) {
                    self.0.insert(rest.offset(), rest);
                }
            }
            from = old.end();
        }
    }

    fn lookup(&self, range: SectorRange, found: &mut [Mapping]) -> usize {
        let all = self.0.range(self.first(range)..range.end);
        let parts = all.filter_map(|(_, mapping)| mapping.trimmed(range));
        let slots = found.iter_mut().zip(parts);
        slots.map(|(slot, part)| *slot = part).count()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

fn filled<C: Contender>(count: usize, blocks: u64) -> C {
    let mut random = Random(1);
    let mut contender = C::default();
    while contender.len() < count {
        contender.insert(data(random.range(blocks)));
    }
    contender
}

fn data(range: SectorRange) -> Mapping {
    Mapping::data(range.start, WRITE_SECTORS, range.start + 8, 0)
}

fn bench<C: Contender>(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("upper_index");
    group.throughput(Throughput::Elements(BATCH));
    for count in [10_000, 100_000, 1_000_000, 10_000_000] {
        let blocks = 2 * count as u64;
        let mut contender: C = filled(count, blocks);
        let mut random = Random(2);
        let name = |what: &str| BenchmarkId::new(format!("{} {what}", C::NAME), count);
        group.bench_function(name("lookup"), |bencher| {
            bencher.iter(|| {
                for _ in 0..BATCH {
                    let mut found = [Mapping::PADDING; 4];
                    black_box(contender.lookup(random.range(blocks), &mut found));
                    black_box(found);
                }
            });
        });
        group.bench_function(name("write"), |bencher| {
            bencher.iter(|| {
                for _ in 0..BATCH {
                    contender.insert(data(random.range(blocks)));
                    contender.remove(random.range(blocks));
                }
            });
        });
    }
    group.finish();
}

fn both(criterion: &mut Criterion) {
    bench::<UpperIndex>(criterion);
    bench::<Map>(criterion);
}

criterion_group!(benches, both);
criterion_main!(benches);
