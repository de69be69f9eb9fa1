//! The tar around a layer, as the C++ tools and as tar(1) write and read it.
#![cfg(test)]

use std::fs;
use std::io::{Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use layers::io::{LocalFile, MemoryFile};
use layers::tar::{self, Member, TarWriter};
use layers::zfile::{BuildOptions, ZFile, ZFileBuilder};
use layers::{ErrorKind, ReadAt};

const MODE: u32 = 0o100_644;

fn vector(name: &str) -> Vec<u8> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors/zfile");
    fs::read(dir.join(name)).unwrap()
}

fn memory(bytes: &[u8]) -> Box<dyn ReadAt> {
    Box::new(MemoryFile::new("memory", bytes.to_vec()))
}

fn read_whole(file: &dyn ReadAt) -> layers::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap()];
    file.read_exact_at(0, &mut bytes)?;
    Ok(bytes)
}

fn wrap(payload: &[u8]) -> Vec<u8> {
    let mut writer = TarWriter::new(Cursor::new(Vec::new())).unwrap();
    writer.write_all(payload).unwrap();
    writer.finish(MODE).unwrap().into_inner()
}

fn run_tar(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .current_dir(dir)
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "tar {args:?}: {output:?}");
    output.stdout
}

#[test]
fn a_wrapped_zfile_is_byte_identical_to_the_vector() {
    let options = BuildOptions {
        overwrite_header: false,
        ..BuildOptions::default()
    };
    let tar = TarWriter::new(Cursor::new(Vec::new())).unwrap();
    let mut zfile = ZFileBuilder::new(tar, options).unwrap();
    zfile.write_all(&vector("text-300000")).unwrap();
    let tar = zfile.finish().unwrap().sink;
    let written = tar.finish(MODE).unwrap().into_inner();
    assert!(written == vector("text-300000.lz4.4.tar.zfile"));
}

#[test]
fn the_vector_reads_as_the_zfile_it_wraps() {
    let wrapped = vector("text-300000.lz4.4.tar.zfile");
    let plain = vector("text-300000.lz4.4.zfile");
    let member = tar::detect(&*memory(&wrapped)).unwrap();
    let expected = Member {
        offset: 1536,
        bytes: plain.len() as u64,
    };
    assert_eq!(member, Some(expected));
    let payload = tar::unwrap(memory(&wrapped)).unwrap();
    assert!(read_whole(&*payload).unwrap() == plain);
    let zfile = ZFile::open(payload).unwrap();
    assert!(read_whole(&zfile).unwrap() == vector("text-300000"));
}

#[test]
fn a_payload_of_9759_bytes_gives_the_golden_fields() {
    let tar = wrap(&[7; 9759]);
    assert_eq!(tar.len(), 12800);
    assert_eq!(tar[512..525], *b"13 size=9759\n");
    assert_eq!(tar[148..156], *b"  5354 \0");
    assert_eq!(tar[1024 + 148..1024 + 156], *b" 12025 \0");
}

#[test]
fn a_zfile_with_an_overwritten_header_survives_the_wrapper() {
    let input = b"some text ".repeat(9_000);
    let tar = TarWriter::new(Cursor::new(Vec::new())).unwrap();
    let mut zfile = ZFileBuilder::new(tar, BuildOptions::default()).unwrap();
    zfile.write_all(&input).unwrap();
    let tar = zfile.finish().unwrap().sink;
    let written = tar.finish(MODE).unwrap().into_inner();
    let zfile = ZFile::open(tar::unwrap(memory(&written)).unwrap()).unwrap();
    assert!(zfile.is_header_final());
    assert!(read_whole(&zfile).unwrap() == input);
}

#[test]
fn payloads_of_any_length_read_back_and_end_on_a_block() {
    for len in [0, 1, 9, 10, 511, 512, 513, 99_999, 100_000] {
        let payload = vec![0x5A; len];
        let tar = wrap(&payload);
        assert_eq!(tar.len(), (1536 + len).next_multiple_of(512) + 1024);
        let opened = tar::unwrap(memory(&tar)).unwrap();
        assert!(read_whole(&*opened).unwrap() == payload, "{len} bytes");
    }
}

#[test]
fn tar_lists_and_extracts_what_the_writer_wraps() {
    let dir = tempfile::tempdir().unwrap();
    let payload = b"payload ".repeat(12_345);
    fs::write(dir.path().join("layer.tar"), wrap(&payload)).unwrap();
    let listing = run_tar(dir.path(), &["-tvf", "layer.tar"]);
    let listing = String::from_utf8(listing).unwrap();
    assert!(listing.contains("-rw-r--r-- root/root"), "{listing}");
    assert!(listing.contains(" 98760 "), "{listing}");
    assert!(listing.ends_with(" overlaybd.commit\n"), "{listing}");
    let extracted = run_tar(dir.path(), &["-xOf", "layer.tar", "overlaybd.commit"]);
    assert!(extracted == payload);
}

#[test]
fn tars_that_tar_writes_open_at_their_payload() {
    let dir = tempfile::tempdir().unwrap();
    let payload = vector("one.lz4.4.zfile");
    fs::write(dir.path().join("overlaybd.commit"), &payload).unwrap();
    // A plain ustar header, as Go's archive/tar writes; and one behind a PAX header.
    for (format, offset) in [("ustar", 512), ("posix", 1536)] {
        let name = format!("{format}.tar");
        let format = format!("--format={format}");
        run_tar(dir.path(), &[&format, "-cf", &name, "overlaybd.commit"]);
        let source = LocalFile::open(&dir.path().join(&name)).unwrap();
        let member = tar::detect(&source).unwrap().unwrap();
        assert_eq!(member.offset, offset, "{name}");
        assert_eq!(member.bytes, payload.len() as u64, "{name}");
        let zfile = ZFile::open(tar::unwrap(Box::new(source)).unwrap()).unwrap();
        assert_eq!(read_whole(&zfile).unwrap(), vector("one"), "{name}");
    }
}

#[test]
fn gnu_tars_and_other_files_are_taken_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), [1; 100]).unwrap();
    run_tar(dir.path(), &["--format=gnu", "-cf", "gnu.tar", "file"]);
    let gnu = fs::read(dir.path().join("gnu.tar")).unwrap();
    for bytes in [
        gnu,
        Vec::new(),
        vec![0; 511],
        vec![0xFF; 4096],
        vector("one.lz4.4.zfile"),
    ] {
        assert_eq!(tar::detect(&*memory(&bytes)).unwrap(), None);
        let opened = tar::unwrap(memory(&bytes)).unwrap();
        assert_eq!(read_whole(&*opened).unwrap(), bytes);
    }
}

#[test]
fn a_first_member_that_is_no_file_is_unsupported() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    run_tar(dir.path(), &["--format=ustar", "-cf", "layer.tar", "etc"]);
    let bytes = fs::read(dir.path().join("layer.tar")).unwrap();
    let error = tar::detect(&*memory(&bytes)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("type '5'"), "{error}");
}

#[test]
fn pax_records_of_more_than_a_block_are_unsupported() {
    let dir = tempfile::tempdir().unwrap();
    let long_name = "n".repeat(200);
    fs::write(dir.path().join(&long_name), [1; 100]).unwrap();
    let long_comment = format!("--pax-option=comment:={}", "c".repeat(400));
    run_tar(
        dir.path(),
        &[
            "--format=posix",
            &long_comment,
            "-cf",
            "layer.tar",
            &long_name,
        ],
    );
    let bytes = fs::read(dir.path().join("layer.tar")).unwrap();
    let error = tar::detect(&*memory(&bytes)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}

#[test]
fn reads_beyond_the_payload_are_out_of_range() {
    let opened = tar::unwrap(memory(&wrap(&[7; 100]))).unwrap();
    for (offset, len) in [(0, 101), (100, 1), (u64::MAX, 2)] {
        let error = opened.read_exact_at(offset, &mut vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }
}

#[test]
fn a_wrapper_cut_inside_headers_or_payload_is_corrupt() {
    let tar = vector("text-300000.lz4.4.tar.zfile");
    let payload_end = 1536 + vector("text-300000.lz4.4.zfile").len();
    for len in 512..payload_end {
        let error = tar::detect(&*memory(&tar[..len])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "cut to {len}");
    }
    for len in [0, 1, 511] {
        assert_eq!(tar::detect(&*memory(&tar[..len])).unwrap(), None);
    }
    // What follows the payload is only for other readers.
    assert!(
        tar::detect(&*memory(&tar[..payload_end]))
            .unwrap()
            .is_some()
    );
}

#[test]
fn checksums_over_signed_and_unsigned_bytes_both_count_and_others_do_not() {
    let good = wrap(&[7; 100]);
    let mut header = good[1024..1536].to_vec();
    header[20..22].copy_from_slice(&[0xC3, 0xA9]);
    header[148..156].fill(b' ');
    let unsigned: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    for (checksum, is_tar) in [
        (unsigned, true),
        (unsigned - 512, true),
        (unsigned - 256, false),
    ] {
        header[148..156].copy_from_slice(format!("{checksum:>6o} \0").as_bytes());
        let mut tar = good.clone();
        tar[1024..1536].copy_from_slice(&header);
        let member = tar::detect(&*memory(&tar));
        assert_eq!(member.is_ok(), is_tar, "{member:?}");
    }
}

/// All that is read through wrapper and zfile.
fn decode(tar: &[u8]) -> layers::Result<Vec<u8>> {
    read_whole(&ZFile::open(tar::unwrap(memory(tar))?)?)
}

#[test]
fn every_flipped_bit_of_the_headers_is_detected_or_in_a_place_that_says_nothing() {
    let tar = vector("text-300000.lz4.4.tar.zfile");
    let content = vector("text-300000");
    let record_end = 512 + b"13 size=6621\n".len();
    for bit in 0..1536 * 8 {
        let mut flipped = tar.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let Ok(decoded) = decode(&flipped) else {
            continue;
        };
        assert!(decoded == content, "bit {bit} changes what is read");
        // Padding behind the PAX record, and columns of a checksum field around its number.
        let at = bit / 8;
        let is_padding = (record_end..1024).contains(&at);
        let is_checksum = (148..156).contains(&(at % 1024));
        assert!(is_padding || is_checksum, "bit {bit} is not detected");
    }
}

#[test]
fn bad_pax_records_are_corrupt() {
    let good = wrap(&[7; 100]);
    let records: [&[u8]; 7] = [
        b"11 size=1x0\n",
        b"99 size=100\n",
        b"0 size=100\n\n",
        b"1 size=100\n\n",
        b"12size=1000\n",
        b"size=100\n\n\n\n",
        b"99999999999999999999999 s=1\n",
    ];
    for record in records {
        let mut tar = good.clone();
        tar[512..524].copy_from_slice(&record[..12]);
        let error = tar::detect(&*memory(&tar)).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Corrupt,
            "{}",
            record.escape_ascii()
        );
    }
}

#[test]
fn the_provisional_headers_of_an_unfinished_file_are_no_tar() {
    let mut sink = Cursor::new(Vec::new());
    {
        let mut writer = TarWriter::new(&mut sink).unwrap();
        writer.write_all(&[7; 3000]).unwrap();
        writer.seek(SeekFrom::Start(0)).unwrap();
    }
    assert_eq!(tar::detect(&*memory(&sink.into_inner())).unwrap(), None);
}
