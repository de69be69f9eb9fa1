//! Writable layers that the C++ daemon wrote read, and take more writes, as it would have them.

use layers::Image;
use layers::lsmt::Stack;
use layers::lsmt::upper::open_read_only;

use crate::expected_disk::assert_is_disk;
use crate::support::{KINDS, Pair, lowers, scratch, vector, writable};

const NAMES: [&str; 2] = ["log", "sparse"];

fn assert_is_expected_disk(image: &Image) {
    assert_is_disk(image, "writable");
}

#[test]
fn a_pair_of_either_kind_opens_for_writing_on_its_lowers() {
    for name in NAMES {
        let dir = writable();
        let image = Pair::named(dir.path(), name).image(lowers());
        assert!(image.is_writable());
        assert_eq!(image.layer_count(), 3);
        assert_is_expected_disk(&image);
    }
}

#[test]
fn a_pair_of_either_kind_opens_for_reading_as_one_more_layer() {
    for name in NAMES {
        let dir = writable();
        let pair = Pair::named(dir.path(), name);
        let before = (
            std::fs::read(&pair.index).unwrap(),
            pair.data.metadata().unwrap().len(),
        );
        let mut layers = lowers();
        layers.push(open_read_only(&pair.data, &pair.index).unwrap());
        assert_is_expected_disk(&Image::from_layers(layers, "").unwrap());
        let after = (
            std::fs::read(&pair.index).unwrap(),
            pair.data.metadata().unwrap().len(),
        );
        assert!(before == after, "reading changes nothing");
    }
}

#[test]
fn the_same_writes_into_a_fresh_pair_give_the_same_disk() {
    for kind in KINDS {
        let dir = scratch();
        let pair = Pair::create(dir.path(), "fresh", kind, 0);
        let image = pair.image(lowers());
        let writes = std::fs::read_to_string(vector("writable/writes.txt")).unwrap();
        for line in writes.lines() {
            apply(&image, line);
        }
        assert_is_expected_disk(&image);
        drop(image);
        assert_is_expected_disk(&pair.image(lowers()));
    }
}

/// `write FIRST_SECTOR SECTORS TAG` or `discard FIRST_SECTOR SECTORS`.
fn apply(image: &Image, line: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let (first, sectors) = (number(1), number(2));
    match words[0] {
        "discard" => image.write_zeroes_at(first * 512, sectors * 512).unwrap(),
        _ => {
            let bytes: Vec<u8> = (first..first + sectors)
                .flat_map(|sector| sector_text(number(3), sector))
                .collect();
            image.write_at(first * 512, &bytes).unwrap();
        }
    }
}

fn sector_text(tag: u64, sector: u64) -> Vec<u8> {
    let text = format!("W{tag:04} S{sector:010} ");
    let mut bytes: Vec<u8> = text.bytes().cycle().take(511).collect();
    bytes.push(b'\n');
    bytes
}

#[test]
fn a_layer_sealed_here_differs_from_the_cxx_one_in_its_filler_alone() {
    let dir = writable();
    let pair = Pair::named(dir.path(), "log");
    layers::lsmt::upper::seal(&pair.data, &pair.index).unwrap();
    let ours = std::fs::read(&pair.data).unwrap();
    let theirs = std::fs::read(dir.path().join("log.seal.data")).unwrap();
    assert_eq!(ours.len(), theirs.len());
    let differing = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
    let trailer = ours.len() - 4096;
    let filler = trailer - 496..trailer;
    let outside = |at: &usize| !filler.contains(at) && ours[*at] != theirs[*at];
    assert_eq!(
        (0..ours.len()).find(outside),
        None,
        "{differing} bytes differ"
    );
    let sealed = crate::support::layer(&pair.data);
    assert!(sealed.trailer().index_entries > 0);
    Stack::new(vec![sealed]).unwrap();
}
