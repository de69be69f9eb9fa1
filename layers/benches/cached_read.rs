//! What a 4 KiB read of a file in the page cache costs: the engine's way (`RWF_NOWAIT` once, then a
//! mapping for some seconds), a plain `pread`, and io_uring with one read at a time and with 32 in
//! one submission.
//!
//! Run with `cargo bench -p layers --bench cached_read`.
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use io_uring::{IoUring, opcode, types};
use layers::io::LocalFile;
use layers::{Dest, Progress, ReadAt, Wait};

const READ_BYTES: usize = 4096;
const FILE_BYTES: usize = 64 << 20;
const BATCH: usize = 32;

fn place(number: &mut u64) -> u64 {
    *number = number
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*number >> 33) % (FILE_BYTES / READ_BYTES) as u64 * READ_BYTES as u64
}

fn reads(criterion: &mut Criterion) {
    let temp = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(temp.path(), vec![7; FILE_BYTES]).unwrap();
    let local = LocalFile::open(temp.path()).unwrap();
    let file = std::fs::File::open(temp.path()).unwrap();
    let mut buf = vec![0_u8; READ_BYTES * BATCH];
    let mut seed = 1;
    let mut group = criterion.benchmark_group("cached 4 KiB read");
    group.throughput(Throughput::Elements(1));
    group.bench_function("the engine: RWF_NOWAIT once then a mapping", |bencher| {
        bencher.iter(|| {
            let dest = Dest::from(buf.get_mut(..READ_BYTES).unwrap());
            let offset = place(&mut seed);
            // Now and then a cached page is not ready at once; it is waited for.
            if local.read_at(offset, dest, Wait::Never).unwrap() == Progress::Pending {
                local
                    .read_exact_at(offset, buf.get_mut(..READ_BYTES).unwrap())
                    .unwrap();
            }
        });
    });
    group.bench_function("pread", |bencher| {
        bencher.iter(|| {
            file.read_exact_at(buf.get_mut(..READ_BYTES).unwrap(), place(&mut seed))
                .unwrap();
        });
    });
    for in_flight in [1, BATCH] {
        group.throughput(Throughput::Elements(in_flight as u64));
        let mut ring = IoUring::new(64).unwrap();
        group.bench_function(
            format!("io_uring, {in_flight} in a submission"),
            |bencher| {
                bencher.iter(|| {
                    submit(&mut ring, &file, &mut buf, in_flight, &mut seed);
                });
            },
        );
    }
    group.finish();
}

fn submit(
    ring: &mut IoUring,
    file: &std::fs::File,
    buf: &mut [u8],
    in_flight: usize,
    seed: &mut u64,
) {
    for part in buf.chunks_exact_mut(READ_BYTES).take(in_flight) {
        let fd = types::Fd(file.as_raw_fd());
        let entry = opcode::Read::new(fd, part.as_mut_ptr(), 4096)
            .offset(place(seed))
            .build();
        // SAFETY: `buf` outlives the wait for all completions below.
        unsafe { ring.submission().push(&entry) }.unwrap();
    }
    ring.submit_and_wait(in_flight).unwrap();
    for completion in ring.completion() {
        assert_eq!(completion.result(), 4096);
    }
}

criterion_group!(benches, reads);
criterion_main!(benches);
