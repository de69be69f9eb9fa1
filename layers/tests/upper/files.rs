//! The two files of a writable layer: made, locked, refused.

use layers::ErrorKind;
use layers::lsmt::upper::{CreateOptions, UpperKind, create, open_read_only, seal};

use crate::support::{KINDS, Pair, lowers, scratch};

#[test]
fn a_new_append_only_pair_is_two_headers() {
    let dir = scratch();
    let pair = Pair::create(dir.path(), "new", UpperKind::AppendOnly, 1 << 30);
    for (file, flags, index_offset) in [(&pair.data, 3, 0_u64), (&pair.index, 1, 4096)] {
        let bytes = std::fs::read(file).unwrap();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(bytes[28], flags);
        assert_eq!(bytes[32..40], index_offset.to_le_bytes());
        assert_eq!(bytes[48..56], (1_u64 << 30).to_le_bytes());
    }
}

#[test]
fn a_new_sparse_pair_is_a_header_with_a_hole_and_an_empty_file() {
    let dir = scratch();
    let pair = Pair::create(dir.path(), "new", UpperKind::Sparse, 1 << 30);
    assert_eq!(pair.data.metadata().unwrap().len(), 1_073_745_920);
    assert_eq!(pair.index.metadata().unwrap().len(), 0);
}

#[test]
fn an_existing_file_is_never_overwritten_and_nothing_else_is_left() {
    for taken in ["x.data", "x.index"] {
        let dir = scratch();
        let pair = Pair::named(dir.path(), "x");
        std::fs::write(dir.path().join(taken), "precious").unwrap();
        let error = create(&pair.data, &pair.index, CreateOptions::default()).unwrap_err();
        assert!(error.to_string().contains("exists already"), "{error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(dir.path().join(taken)).unwrap(), b"precious");
    }
}

#[test]
fn a_layer_without_a_size_takes_that_of_its_lowers_and_keeps_it() {
    for kind in KINDS {
        let dir = scratch();
        let pair = Pair::create(dir.path(), "x", kind, 0);
        assert_eq!(pair.image(lowers()).virtual_size(), 1 << 30);
        assert_eq!(pair.open().unwrap().virtual_size_bytes(), 1 << 30);
        // The C++ code reads it from either header.
        let header = |path| std::fs::read(path).unwrap().get(48..56).map(<[u8]>::to_vec);
        let size = Some((1_u64 << 30).to_le_bytes().to_vec());
        assert_eq!(header(&pair.data), size);
        if kind == UpperKind::AppendOnly {
            assert_eq!(header(&pair.index), size);
        }
    }
}

#[test]
fn a_layer_that_is_open_for_writing_is_refused_to_everybody_else() {
    for kind in KINDS {
        let dir = scratch();
        let pair = Pair::create(dir.path(), "x", kind, 1 << 20);
        let image = pair.image(Vec::new());
        for error in [
            pair.open().unwrap_err(),
            open_read_only(&pair.data, &pair.index).unwrap_err(),
            seal(&pair.data, &pair.index).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
        }
        drop(image);
        pair.open().unwrap();
    }
}

#[test]
fn a_sealed_layer_is_not_written_any_more() {
    for kind in KINDS {
        let dir = scratch();
        let pair = Pair::create(dir.path(), "x", kind, 1 << 20);
        seal(&pair.data, &pair.index).unwrap();
        let error = pair.open().unwrap_err();
        assert!(error.to_string().contains("was sealed"), "{error}");
    }
}

#[test]
fn files_of_two_pairs_do_not_make_a_layer() {
    let dir = scratch();
    let one = Pair::create(dir.path(), "one", UpperKind::AppendOnly, 1 << 20);
    let two = Pair::create(dir.path(), "two", UpperKind::AppendOnly, 1 << 20);
    let mixed = Pair {
        data: one.data,
        index: two.index,
    };
    let error = mixed.open().unwrap_err();
    assert!(error.to_string().contains("belongs to layer"), "{error}");
}

#[test]
fn swapped_and_short_files_are_refused_by_name() {
    let dir = scratch();
    let pair = Pair::create(dir.path(), "x", UpperKind::AppendOnly, 1 << 20);
    let swapped = Pair {
        data: pair.index.clone(),
        index: pair.data.clone(),
    };
    let error = swapped.open().unwrap_err().to_string();
    assert!(
        error.contains("x.index") && error.contains("an index file"),
        "{error}"
    );
    std::fs::write(&pair.index, [0; 100]).unwrap();
    let error = pair.open().unwrap_err().to_string();
    assert!(error.contains("100 bytes are too short"), "{error}");
}

#[test]
fn a_new_layer_that_is_smaller_or_not_empty_is_refused_and_the_disk_goes_on() {
    for kind in KINDS {
        let dir = scratch();
        let pair = Pair::create(dir.path(), "x", kind, 1 << 20);
        let image = pair.image(Vec::new());
        for (name, size) in [("sizeless", 0), ("small", 1 << 19), ("full", 1 << 20)] {
            let new = Pair::create(dir.path(), name, kind, size);
            if size == 1 << 20 {
                new.image(Vec::new()).write_at(0, &[9; 512]).unwrap();
            }
            let upper = layers::config::UpperConfig {
                data: new.data,
                index: new.index,
                ..layers::config::UpperConfig::default()
            };
            let error = image.restack(&upper).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{name}: {error}");
        }
        image.write_at(0, &[7; 512]).unwrap();
        drop(image);
        let mut sector = [0; 512];
        pair.image(Vec::new())
            .read_exact_at(0, &mut sector)
            .unwrap();
        assert_eq!(sector, [7; 512]);
    }
}

/// As many as there may be: their number is the tag that marks a checked entry of obd.
#[test]
fn a_log_of_the_cxx_code_over_255_lowers_counts() {
    let dir = crate::support::writable();
    let pair = Pair::named(dir.path(), "log");
    let before = open_read_only(&pair.data, &pair.index).unwrap();
    let mut log = std::fs::read(&pair.index).unwrap();
    for entry in log[4096..].chunks_mut(16) {
        entry[15] = 255;
    }
    std::fs::write(&pair.index, log).unwrap();
    let after = open_read_only(&pair.data, &pair.index).unwrap();
    assert!(!after.mappings().is_empty());
    assert_eq!(before.mappings(), after.mappings());
}

#[test]
fn a_torn_log_of_the_cxx_code_loses_its_last_entries_and_nothing_else() {
    let dir = crate::support::writable();
    let pair = Pair::named(dir.path(), "log");
    let log = std::fs::read(&pair.index).unwrap();
    let whole = pair.image(lowers());
    let mut before = vec![0; 1 << 20];
    whole.read_exact_at(0, &mut before).unwrap();
    drop(whole);
    // An entry whose data is behind the end of the data file, and a part of another one.
    let far = layers::lsmt::Mapping::data(0, 8, 1 << 30, 2).to_bytes();
    let torn = [log.as_slice(), far.as_slice(), &far[..7]].concat();
    std::fs::write(&pair.index, torn).unwrap();
    let image = pair.image(lowers());
    let mut after = vec![0; 1 << 20];
    image.read_exact_at(0, &mut after).unwrap();
    assert!(before == after);
    drop(image);
    // What the C++ code would stumble over is gone from the file.
    let mended = std::fs::read(&pair.index).unwrap();
    assert_eq!(mended[..log.len()], log);
    assert_eq!(
        mended[log.len()..][..16],
        layers::lsmt::Mapping::PADDING.to_bytes()
    );
    assert!(mended.len().is_multiple_of(16));
}

#[test]
fn padding_anywhere_in_a_log_is_skipped() {
    let dir = crate::support::writable();
    let pair = Pair::named(dir.path(), "log");
    let log = std::fs::read(&pair.index).unwrap();
    let padding = layers::lsmt::Mapping::PADDING.to_bytes();
    let padded: Vec<u8> = log[4096..]
        .chunks(16)
        .flat_map(|entry| [&padding, entry, &padding].concat())
        .collect();
    let before = open_read_only(&pair.data, &pair.index).unwrap();
    std::fs::write(&pair.index, [&log[..4096], &padded].concat()).unwrap();
    let after = open_read_only(&pair.data, &pair.index).unwrap();
    assert_eq!(before.mappings(), after.mappings());
}

#[test]
fn an_index_file_that_another_layer_writes_is_refused() {
    let dir = scratch();
    let pair = Pair::create(dir.path(), "x", UpperKind::AppendOnly, 1 << 20);
    let copy = Pair {
        data: dir.path().join("copy.data"),
        index: pair.index.clone(),
    };
    std::fs::copy(&pair.data, &copy.data).unwrap();
    let _image = pair.image(Vec::new());
    assert_eq!(copy.open().unwrap_err().kind(), ErrorKind::Busy);
}

#[test]
fn flushed_entries_that_are_gone_are_an_error() {
    let dir = scratch();
    let pair = Pair::create(dir.path(), "x", UpperKind::AppendOnly, 1 << 20);
    for block in 0..200 {
        let image = pair.image(Vec::new());
        image.write_at(block * 4096, &[7; 4096]).unwrap();
    }
    let mut log = std::fs::read(&pair.index).unwrap();
    log[8192..8704].fill(0);
    std::fs::write(&pair.index, log).unwrap();
    let error = pair.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(
        error.to_string().contains("was flushed and is gone"),
        "{error}"
    );
}

#[test]
fn a_sparse_data_file_that_was_cut_short_is_refused_and_left_alone() {
    let dir = scratch();
    let pair = Pair::create(dir.path(), "x", UpperKind::Sparse, 1 << 20);
    let file = std::fs::File::options()
        .write(true)
        .open(&pair.data)
        .unwrap();
    file.set_len(8192).unwrap();
    for error in [
        pair.open().unwrap_err(),
        open_read_only(&pair.data, &pair.index).unwrap_err(),
    ] {
        assert!(error.to_string().contains("cut short"), "{error}");
    }
    assert_eq!(pair.data.metadata().unwrap().len(), 8192);
}

#[test]
fn a_sparse_data_file_with_the_index_of_another_kind_is_refused() {
    let dir = scratch();
    let sparse = Pair::create(dir.path(), "s", UpperKind::Sparse, 1 << 20);
    let append = Pair::create(dir.path(), "a", UpperKind::AppendOnly, 1 << 20);
    let mixed = Pair {
        data: sparse.data,
        index: append.index,
    };
    let error = mixed.open().unwrap_err();
    assert!(error.to_string().contains("is a sparse one"), "{error}");
}

#[test]
fn a_disk_of_no_bytes_is_refused() {
    for kind in KINDS {
        let dir = scratch();
        let pair = Pair::create(dir.path(), "x", kind, 0);
        let error = layers::Image::with_upper(Vec::new(), pair.open().unwrap()).unwrap_err();
        assert!(error.to_string().contains("no layer has a size"), "{error}");
    }
}
