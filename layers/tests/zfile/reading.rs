//! How reads behave: in part, without waiting, from several threads, on damaged files.

use std::sync::Mutex;

use layers::io::MemoryFile;
use layers::zfile::{Algorithm, BuildOptions, ZFile};
use layers::{Dest, ErrorKind, Progress, ReadAt, Wait};

use crate::support::{build, mixed_bytes, open};

/// A source whose bytes are not in memory after the first `ready_reads` reads that may not wait.
#[derive(Debug)]
struct SlowSource {
    bytes: MemoryFile,
    ready_reads: Mutex<usize>,
}

impl ReadAt for SlowSource {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn name(&self) -> &str {
        self.bytes.name()
    }

    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> layers::Result<Progress> {
        if wait == Wait::Never {
            let mut ready_reads = self.ready_reads.lock().unwrap();
            let Some(left) = ready_reads.checked_sub(1) else {
                return Ok(Progress::Pending);
            };
            *ready_reads = left;
        }
        self.bytes.read_at(offset, dest, wait)
    }
}

#[test]
fn a_read_that_may_not_wait_is_pending_when_any_of_its_bytes_is() {
    let input = mixed_bytes(1 << 20, 4);
    let file = build(&input, BuildOptions::default());
    // 1 MiB of input are several reads of the source.
    for ready_reads in [0, 1] {
        let zfile = ZFile::open(Box::new(SlowSource {
            bytes: MemoryFile::new("slow", file.clone()),
            ready_reads: Mutex::new(ready_reads),
        }))
        .unwrap();
        let mut buf = vec![0; input.len()];
        let progress = zfile.read_at(0, Dest::from(&mut buf[..]), Wait::Never);
        assert_eq!(progress.unwrap(), Progress::Pending);
        let progress = zfile.read_at(0, Dest::from(&mut buf[..]), Wait::UntilDone);
        assert_eq!(progress.unwrap(), Progress::Done);
        assert!(buf == input);
    }
}

#[test]
fn a_read_that_may_not_wait_is_done_when_all_bytes_are_there() {
    let input = mixed_bytes(50_000, 4);
    let zfile = open(build(&input, BuildOptions::default())).unwrap();
    let mut buf = vec![0; 10_000];
    let progress = zfile.read_at(3_333, Dest::from(&mut buf[..]), Wait::Never);
    assert_eq!(progress.unwrap(), Progress::Done);
    assert!(buf == input[3_333..13_333]);
}

#[test]
fn a_zfile_in_a_zfile_reads_through_both() {
    let input = mixed_bytes(200_000, 6);
    let options = BuildOptions {
        algorithm: Algorithm::Zstd,
        block_bytes: 65536,
        ..BuildOptions::default()
    };
    let inner = build(&input, BuildOptions::default());
    let outer = open(build(&inner, options)).unwrap();
    let zfile = ZFile::open(Box::new(outer)).unwrap();
    let mut buf = vec![0; input.len()];
    zfile.read_exact_at(0, &mut buf).unwrap();
    assert!(buf == input);
}

#[test]
fn threads_read_the_same_file_at_once() {
    let input = mixed_bytes(1 << 20, 8);
    let zfile = open(build(&input, BuildOptions::default())).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (zfile, input) = (&zfile, &input);
            scope.spawn(move || {
                for step in 0..200 {
                    let start = (thread * 7919 + step * 5003) % (input.len() - 20_000);
                    let mut buf = vec![0; 1 + (step * 97) % 20_000];
                    zfile.read_exact_at(start as u64, &mut buf).unwrap();
                    assert!(buf == input[start..start + buf.len()]);
                }
            });
        }
    });
}

#[test]
fn a_damaged_block_is_named_with_its_offset_and_both_checksums() {
    let mut file = build(&mixed_bytes(40_000, 1), BuildOptions::default());
    file[512 + 7] ^= 0x40;
    let zfile = open(file).unwrap();
    let error = zfile.read_exact_at(0, &mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.offset(), Some(512));
    let text = error.to_string();
    assert!(
        text.starts_with("read zfile block: memory at byte 512: block 0: checksum: stored 0x"),
        "{text}"
    );
    assert!(text.contains("computed 0x"), "{text}");
    // Other blocks are as good as before.
    zfile.read_exact_at(8192, &mut [0; 4096]).unwrap();
}

/// Gives a wrong byte once, as a cached copy does that another reader drops at that moment.
#[derive(Debug)]
struct WrongOnce {
    file: Vec<u8>,
    wrong: std::sync::atomic::AtomicBool,
}

impl ReadAt for WrongOnce {
    fn size(&self) -> u64 {
        self.file.len() as u64
    }

    fn name(&self) -> &str {
        "memory"
    }

    fn read_at(&self, offset: u64, mut dest: Dest<'_>, _: Wait) -> layers::Result<Progress> {
        let start = usize::try_from(offset).unwrap();
        let mut bytes = self.file[start..start + dest.len()].to_vec();
        if offset == 512 && self.wrong.swap(false, std::sync::atomic::Ordering::SeqCst) {
            bytes[7] ^= 1;
        }
        dest.copy_from(&bytes);
        Ok(Progress::Done)
    }
}

#[test]
fn a_damaged_block_that_another_reader_has_dropped_is_read_again() {
    let input = mixed_bytes(40_000, 1);
    let source = WrongOnce {
        file: build(&input, BuildOptions::default()),
        wrong: true.into(),
    };
    let zfile = ZFile::open(Box::new(source)).unwrap();
    let mut buf = vec![0; 5000];
    zfile.read_exact_at(0, &mut buf).unwrap();
    assert!(buf == input[..5000]);
}

#[test]
fn a_block_that_decodes_to_another_length_is_corrupt() {
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let options = BuildOptions {
            algorithm,
            overwrite_header: false,
            ..BuildOptions::default()
        };
        let file = build(&mixed_bytes(6_000, 1), options);
        // The size before compression, in a trailer whose digest is no longer meant.
        let trailer = file.len() - 512;
        for (wrong, found) in [(6_001_u64, "decodes to 1904 bytes"), (5_999, "no ")] {
            let mut file = file.clone();
            file[trailer + 32] &= !(1 << 4);
            file[trailer + 56..trailer + 64].copy_from_slice(&wrong.to_le_bytes());
            let zfile = open(file).unwrap();
            let mut buf = vec![0; 6_000];
            zfile.read_exact_at(0, &mut buf[..4096]).unwrap();
            // Both when the whole block is wanted and when a part of it is.
            for offset in [4096, 4097] {
                let len = usize::try_from(wrong - offset).unwrap();
                let error = zfile.read_exact_at(offset, &mut buf[..len]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
                assert!(error.to_string().contains(found), "{error}");
            }
            assert_eq!(zfile.verify_all(|_| ()).unwrap().fault_count, 1);
        }
    }
}

#[test]
fn verify_names_every_damaged_block_and_counts_progress() {
    let mut file = build(&mixed_bytes(1 << 20, 1), BuildOptions::default());
    let clean = open(file.clone()).unwrap();
    let report = clean.verify_all(|_| ()).unwrap();
    assert!(report.is_sound());
    assert!(clean.compressed_bytes() < 1 << 20);

    let middle = file.len() / 2;
    for at in [512, middle, file.len() - 512 - 4 * 256 - 1] {
        file[at] ^= 1;
    }
    let mut done = Vec::new();
    let report = open(file)
        .unwrap()
        .verify_all(|blocks| done.push(blocks))
        .unwrap();
    assert!(!report.is_sound());
    assert_eq!(report.fault_count, 3);
    let blocks: Vec<usize> = report.faults.iter().map(|fault| fault.block).collect();
    assert_eq!((blocks[0], blocks[2]), (0, 255));
    assert!((1..255).contains(&blocks[1]));
    assert!(report.faults[1].error.offset().unwrap() <= middle as u64);
    assert!(done.is_sorted());
    assert_eq!(done.last(), Some(&256));
}
