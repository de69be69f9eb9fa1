//! What the builder writes: the bytes of the C++ tools, whatever the number of threads.

use std::io::{self, Cursor, Seek, SeekFrom, Write};

use layers::ErrorKind;
use layers::io::MemoryFile;
use layers::tar::{self, TarWriter};
use layers::zfile::{Algorithm, BuildOptions, ZFile, ZFileBuilder};

use crate::support::{
    build, decode, mixed_bytes, open, read_whole, vector, vector_path, zfile_vectors,
};

fn plain_header(algorithm: Algorithm, block_bytes: u32, threads: usize) -> BuildOptions {
    BuildOptions {
        algorithm,
        block_bytes,
        overwrite_header: false,
        threads,
    }
}

#[test]
fn lz4_output_is_byte_identical_to_the_vectors_with_any_number_of_threads() {
    for vector in zfile_vectors() {
        if vector.algorithm != "lz4" {
            continue;
        }
        let expected = std::fs::read(&vector.path).unwrap();
        for threads in [1, 2, 4] {
            let options = plain_header(Algorithm::Lz4, vector.block_bytes, threads);
            let written = build(&vector.input, options);
            assert!(
                written == expected,
                "{} with {threads} threads",
                vector.name
            );
        }
    }
}

/// Reads what is in `file` and writes it again as `overlaybd-commit` and `-merge` do.
fn rebuild(file: Vec<u8>) -> Vec<u8> {
    let source = Box::new(MemoryFile::new("memory", file));
    let is_wrapped = tar::detect(&*source).unwrap().is_some();
    let zfile = ZFile::open(tar::unwrap(source).unwrap()).unwrap();
    let options = BuildOptions {
        algorithm: zfile.algorithm(),
        block_bytes: zfile.block_bytes(),
        overwrite_header: zfile.is_header_final(),
        threads: 2,
    };
    let content = read_whole(&zfile);
    if !is_wrapped {
        return build(&content, options);
    }
    let sink = TarWriter::new(Cursor::new(Vec::new())).unwrap();
    let mut builder = ZFileBuilder::new(sink, options).unwrap();
    builder.write_all(&content).unwrap();
    let tar = builder.finish().unwrap().sink;
    tar.finish(0o100_644).unwrap().into_inner()
}

#[test]
fn lz4_layers_made_by_the_cpp_tools_rebuild_to_the_same_bytes() {
    for name in ["layer0.obd", "layer1.obd", "merged.obd"] {
        let file = std::fs::read(vector_path("../native").join(name)).unwrap();
        assert!(rebuild(file.clone()) == file, "{name}");
    }
}

#[test]
fn zstd_output_reads_back_and_does_not_depend_on_threads() {
    for vector in zfile_vectors() {
        if vector.algorithm != "zstd" {
            continue;
        }
        let one = build(
            &vector.input,
            plain_header(Algorithm::Zstd, vector.block_bytes, 1),
        );
        let four = build(
            &vector.input,
            plain_header(Algorithm::Zstd, vector.block_bytes, 4),
        );
        assert!(one == four, "{}", vector.name);
        assert!(decode(one).unwrap() == vector.input, "{}", vector.name);
    }
}

#[test]
fn output_does_not_depend_on_how_the_input_is_cut_into_writes() {
    let input = mixed_bytes(700_001, 3);
    let options = plain_header(Algorithm::Lz4, 16384, 2);
    let expected = build(&input, options);
    for cut in [1000, 4096, 262_144, 262_145] {
        let mut builder = ZFileBuilder::new(Cursor::new(Vec::new()), options).unwrap();
        for part in input.chunks(cut) {
            builder.write_all(part).unwrap();
        }
        let written = builder.finish().unwrap().sink.into_inner();
        assert!(written == expected, "writes of {cut} bytes");
    }
}

#[test]
fn a_block_of_zeros_gives_the_golden_bytes() {
    let file = build(&[0; 4096], plain_header(Algorithm::Lz4, 4096, 1));
    let mut block = vec![0x1F, 0x00, 0x01, 0x00];
    block.extend([0xFF; 15]);
    block.extend([0xF6, 0x50, 0, 0, 0, 0, 0]);
    block.extend([0x24, 0x17, 0x91, 0xB4]);
    assert_eq!(file.len(), 1058);
    assert_eq!(file[28..32], 0xC7A2_12FC_u32.to_le_bytes());
    assert_eq!(file[32..40], 0x13_u64.to_le_bytes());
    assert_eq!(file[512..542], block);
    assert_eq!(file[542..546], [0x1E, 0, 0, 0]);
    let trailer = &file[546..];
    assert_eq!(trailer[28..32], [0x69, 0xE2, 0x56, 0x80]);
    assert_eq!(trailer[32..40], 0x16_u64.to_le_bytes());
    assert_eq!(trailer[40..48], 0x21E_u64.to_le_bytes());
    assert_eq!(trailer[64..68], [0xA9, 0xC0, 0x65, 0xDB]);
}

#[test]
fn an_overwritten_header_repeats_the_trailer_and_changes_nothing_else() {
    let input = mixed_bytes(100_000, 5);
    let plain = build(&input, plain_header(Algorithm::Lz4, 4096, 1));
    let overwritten = build(&input, BuildOptions::default());
    assert_eq!(overwritten[32..40], 0x1B_u64.to_le_bytes());
    let trailer = &plain[plain.len() - 512..];
    assert_eq!(overwritten[40..512], trailer[40..]);
    assert!(overwritten[512..] == plain[512..]);
    assert!(open(overwritten).unwrap().is_header_final());
}

#[test]
fn more_blocks_than_a_group_of_the_jump_table_read_back() {
    let mut input = vec![0; (2 * 4096 + 3) * 4096 + 77];
    for (number, block) in input.chunks_mut(4096).enumerate() {
        block[..8].copy_from_slice(&(number as u64).to_le_bytes());
    }
    let file = build(&input, plain_header(Algorithm::Lz4, 4096, 2));
    assert!(decode(file).unwrap() == input);
}

#[test]
fn a_zfile_may_start_in_the_middle_of_its_sink() {
    let mut sink = Cursor::new(b"prefix".to_vec());
    sink.seek(SeekFrom::End(0)).unwrap();
    let mut builder = ZFileBuilder::new(sink, BuildOptions::default()).unwrap();
    builder.write_all(&vector("one")).unwrap();
    let bytes = builder.finish().unwrap().sink.into_inner();
    assert_eq!(bytes[..6], *b"prefix");
    assert_eq!(decode(bytes[6..].to_vec()).unwrap(), vector("one"));
}

#[test]
fn options_out_of_range_are_refused() {
    let sizes = [0, 1, 512, 2048, 4097, 12288, 65537, 131_072, u32::MAX];
    let bad_sizes = sizes.map(|block_bytes| BuildOptions {
        block_bytes,
        ..BuildOptions::default()
    });
    let bad_threads = [0, 257].map(|threads| BuildOptions {
        threads,
        ..BuildOptions::default()
    });
    for options in bad_sizes.into_iter().chain(bad_threads) {
        let error = ZFileBuilder::new(Cursor::new(Vec::new()), options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{options:?}");
    }
}

/// A sink on which the operation number `fail_at` fails.
#[derive(Debug)]
struct FailingSink {
    sink: Cursor<Vec<u8>>,
    operations_left: usize,
}

impl FailingSink {
    fn count(&mut self) -> io::Result<()> {
        self.operations_left = self
            .operations_left
            .checked_sub(1)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOSPC))?;
        Ok(())
    }
}

impl Write for FailingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.count()?;
        self.sink.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.count()
    }
}

impl Seek for FailingSink {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.count()?;
        self.sink.seek(to)
    }
}

fn write_to_failing(operations: usize, threads: usize, input: &[u8]) -> bool {
    let sink = FailingSink {
        sink: Cursor::new(Vec::new()),
        operations_left: operations,
    };
    let options = BuildOptions {
        threads,
        ..BuildOptions::default()
    };
    let Ok(mut builder) = ZFileBuilder::new(sink, options) else {
        return false;
    };
    for part in input.chunks(100_000) {
        if builder.write_all(part).is_err() {
            // What failed once stays failed, it never ends in a file that looks finished.
            assert!(builder.write_all(part).is_err());
            assert!(builder.finish().is_err());
            return false;
        }
    }
    builder.finish().is_ok()
}

#[test]
fn a_failure_of_any_operation_of_the_sink_surfaces() {
    let input = mixed_bytes(2_000_000, 9);
    for threads in [1, 3] {
        let enough = (0..100)
            .find(|operations| write_to_failing(*operations, threads, &input))
            .unwrap();
        // Position, header, 8 batches, index, trailer, seek, header, seek, flush.
        assert_eq!(enough, 16, "{threads} threads");
    }
}

#[test]
fn an_unfinished_file_does_not_open() {
    let mut sink = Cursor::new(Vec::new());
    let mut builder = ZFileBuilder::new(&mut sink, BuildOptions::default()).unwrap();
    builder.write_all(&mixed_bytes(1_000_000, 1)).unwrap();
    drop(builder);
    let error = open(sink.into_inner()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}
