//! Every zfile that the C++ tools made reads back as its input.

use crate::support::{read_whole, vector_path, zfile_vectors};
use layers::io::LocalFile;
use layers::zfile::{self, ZFile};
use layers::{ErrorKind, ReadAt};

#[test]
fn every_vector_decodes_to_its_input() {
    let vectors = zfile_vectors();
    assert_eq!(vectors.len(), 20);
    for vector in vectors {
        let source = LocalFile::open(&vector.path).unwrap();
        assert!(zfile::detect(&source).unwrap(), "{}", vector.name);
        let zfile = ZFile::open(Box::new(source)).unwrap();
        assert_eq!(read_whole(&zfile), vector.input, "{}", vector.name);
        assert_eq!(zfile.block_bytes(), vector.block_bytes, "{}", vector.name);
        assert_eq!(
            zfile.algorithm().name(),
            vector.algorithm,
            "{}",
            vector.name
        );
        assert!(zfile.has_block_crc(), "{}", vector.name);
        assert!(!zfile.is_header_final(), "{}", vector.name);
    }
}

#[test]
fn the_inputs_themselves_are_no_zfiles() {
    for name in ["empty", "one", "mixed-262144", "rnd-100001", "text-300000"] {
        let source = LocalFile::open(&vector_path(name)).unwrap();
        assert!(!zfile::detect(&source).unwrap(), "{name}");
        let error = ZFile::open(Box::new(source)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{name}");
    }
}

#[test]
fn a_read_past_the_end_is_out_of_range() {
    let source = LocalFile::open(&vector_path("one.lz4.4.zfile")).unwrap();
    let zfile = ZFile::open(Box::new(source)).unwrap();
    for (offset, len) in [(0, 2), (1, 1), (u64::MAX, 2)] {
        let error = zfile.read_exact_at(offset, &mut vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }
    zfile.read_exact_at(1, &mut []).unwrap();
}
