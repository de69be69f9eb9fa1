//! Reads of a zfile in the page cache, and what their parts cost alone.
//!
//! The input is the file that `OBD_BENCH_FILE` names, up to 256 MiB of it, or else this program
//! itself. Positions are random and the same in every run.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a bench may panic"
)]

use std::io::{BufWriter, Read, Write};
use std::path::Path;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use layers::io::LocalFile;
use layers::zfile::{Algorithm, BuildOptions, ZFile, ZFileBuilder};
use layers::{Dest, Progress, ReadAt, Wait};

const INPUT_BYTES_MAX: u64 = 256 << 20;

fn input() -> Vec<u8> {
    let path = std::env::var_os("OBD_BENCH_FILE")
        .map_or_else(|| std::env::current_exe().unwrap(), Into::into);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).unwrap();
    file.take(INPUT_BYTES_MAX).read_to_end(&mut bytes).unwrap();
    bytes
}

fn build(input: &[u8], algorithm: Algorithm, block_bytes: u32, path: &Path) -> ZFile {
    let options = BuildOptions {
        algorithm,
        block_bytes,
        threads: 2,
        ..BuildOptions::default()
    };
    let sink = BufWriter::new(std::fs::File::create(path).unwrap());
    let mut builder = ZFileBuilder::new(sink, options).unwrap();
    builder.write_all(input).unwrap();
    drop(builder.finish().unwrap());
    ZFile::open(Box::new(LocalFile::open(path).unwrap())).unwrap()
}

/// Random multiples of `step` below `size - len`.
struct Positions {
    state: u64,
    step: u64,
    count: u64,
}

impl Positions {
    fn new(size: u64, len: usize, step: u64) -> Self {
        Self {
            state: 1,
            step,
            count: (size - len as u64) / step,
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % self.count * self.step
    }
}

fn read(file: &dyn ReadAt, offset: u64, buf: &mut [u8]) {
    let progress = file.read_at(offset, Dest::from(&mut *buf), Wait::Never);
    // A read without waiting now and then finds a cached page not ready (seen once in 10^4 reads).
    if progress.unwrap() == Progress::Pending {
        file.read_exact_at(offset, buf).unwrap();
    }
}

fn whole_reads(c: &mut Criterion) {
    let input = input();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("bench.zfile");
    let mut group = c.benchmark_group("zfile_read");
    for (algorithm, block_kib) in [
        (Algorithm::Lz4, 4),
        (Algorithm::Lz4, 64),
        (Algorithm::Zstd, 4),
    ] {
        let zfile = build(&input, algorithm, block_kib << 10, &path);
        for (mode, len) in [("4k", 4096), ("128k", 131_072), ("1m", 1 << 20)] {
            let mut buf = vec![0; len];
            let mut positions = Positions::new(zfile.size(), len, 4096);
            group.throughput(Throughput::Bytes(len as u64));
            let id = format!("{}_{block_kib}k_blocks/{mode}", algorithm.name());
            group.bench_function(id, |b| {
                b.iter(|| read(&zfile, positions.next(), &mut buf));
            });
        }
    }
    group.finish();
}

/// The parts of a 4 KiB read of LZ4 blocks of 4 KiB, each over the same random blocks.
fn parts(c: &mut Criterion) {
    let input = input();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("bench.zfile");
    drop(build(&input, Algorithm::Lz4, 4096, &path));
    let source = LocalFile::open(&path).unwrap();
    let stored = std::fs::read(&path).unwrap();
    let field = |at: usize| u64::from_le_bytes(stored[at..at + 8].try_into().unwrap());
    let index = usize::try_from(field(40)).unwrap();
    let mut blocks = vec![512];
    for entry in stored[index..stored.len() - 512].as_chunks::<4>().0 {
        let size = usize::try_from(u32::from_le_bytes(*entry)).unwrap();
        blocks.push(blocks[blocks.len() - 1] + size);
    }
    let mut positions = Positions::new(blocks.len() as u64, 1, 1);
    let mut next = move || {
        let block = usize::try_from(positions.next()).unwrap();
        (blocks[block], blocks[block + 1])
    };
    let mut buf = vec![0; 8192];
    let mut out = vec![0; 4096];

    let mut group = c.benchmark_group("zfile_read_parts");
    group.bench_function("pread", |b| {
        b.iter(|| {
            let (start, end) = next();
            read(&source, start as u64, &mut buf[..end - start]);
        });
    });
    group.bench_function("pread_crc", |b| {
        b.iter(|| {
            let (start, end) = next();
            read(&source, start as u64, &mut buf[..end - start]);
            crc32c::crc32c(&buf[..end - start - 4])
        });
    });
    group.bench_function("pread_crc_decode", |b| {
        b.iter(|| {
            let (start, end) = next();
            read(&source, start as u64, &mut buf[..end - start]);
            let crc = crc32c::crc32c(&buf[..end - start - 4]);
            (crc, decode(&buf[..end - start - 4], &mut out))
        });
    });
    group.bench_function("decode_hot", |b| {
        let (start, end) = next();
        b.iter(|| decode(&stored[start..end - 4], &mut out));
    });
    group.finish();
}

fn decode(block: &[u8], out: &mut [u8]) -> i32 {
    let (block_len, out_len) = (
        i32::try_from(block.len()).unwrap(),
        i32::try_from(out.len()).unwrap(),
    );
    // SAFETY: both slices are valid for the lengths given, which bound the decoder.
    unsafe {
        lz4_sys::LZ4_decompress_safe(
            block.as_ptr().cast(),
            out.as_mut_ptr().cast(),
            block_len,
            out_len,
        )
    }
}

criterion_group!(benches, parts, whole_reads);
criterion_main!(benches);
