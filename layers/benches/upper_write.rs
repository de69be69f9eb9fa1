//! 4 KiB random writes into writable layers, beside plain `pwrite` into a raw file: what the engine
//! adds to the copy into the page cache.
//!
//! Run with `cargo bench -p layers --bench upper_write`, for a second at most: a longer run measures
//! how the kernel holds a writer back until the disk has caught up.
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use layers::lsmt::Uuid;
use layers::lsmt::upper::{CreateOptions, Upper, UpperKind, create};
use layers::{Image, Wait, WriteBatch};

const DISK_BYTES: u64 = 1 << 30;
const BLOCK: [u8; 4096] = [0x5A; 4096];

/// Writes that one commit covers: what a queue of depth 32 gives a ring thread at once.
const BATCH: usize = 16;

fn image(dir: &Path, name: &str, kind: UpperKind) -> Image {
    let (data, index) = (
        dir.join(format!("{name}.data")),
        dir.join(format!("{name}.index")),
    );
    let options = CreateOptions {
        kind,
        virtual_size_bytes: DISK_BYTES,
        parent_uuid: Uuid::NIL,
    };
    create(&data, &index, options).unwrap();
    Image::with_upper(Vec::new(), Upper::open(&data, &index).unwrap()).unwrap()
}

/// Block addresses that jump all over the disk.
fn places() -> impl FnMut() -> u64 {
    let mut state = 1_u64;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % (DISK_BYTES / 4096) * 4096
    }
}

fn writes(criterion: &mut Criterion) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut group = criterion.benchmark_group("upper_write");
    group.throughput(Throughput::Elements(1));
    let raw = std::fs::File::create(dir.path().join("raw")).unwrap();
    raw.set_len(DISK_BYTES).unwrap();
    let mut place = places();
    group.bench_function("pwrite", |bencher| {
        bencher.iter(|| raw.write_all_at(black_box(&BLOCK), place()).unwrap());
    });
    for (name, kind) in [
        ("append", UpperKind::AppendOnly),
        ("sparse", UpperKind::Sparse),
    ] {
        let image = image(dir.path(), name, kind);
        let mut place = places();
        group.bench_function(name, |bencher| {
            bencher.iter(|| image.write_at(place(), black_box(&BLOCK)).unwrap());
        });
    }
    let image = image(dir.path(), "batch", UpperKind::AppendOnly);
    let mut place = places();
    let mut batch = WriteBatch::default();
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("append, 16 a commit", |bencher| {
        bencher.iter(|| {
            for _ in 0..BATCH {
                let staged = image.stage_write(&mut batch, place(), &BLOCK, Wait::Never);
                let _done = black_box(staged.unwrap());
            }
            image.commit(&mut batch).unwrap();
        });
    });
    group.finish();
}

criterion_group!(benches, writes);
criterion_main!(benches);
