//! What a kill may leave, made by hand: each is opened right.

use std::fs;
use std::sync::Barrier;

use layers::lsmt::upper::{UpperKind, seal};
use layers::{Access, ErrorKind, Image, Service};

use crate::support::{DISK_BYTES, Disk, KINDS, byte_at, quick_scratch, scratch, write_block};

/// A disk with a 5 in block 1, and all that a snapshot needs.
fn prepared(dir: &std::path::Path, kind: UpperKind) -> Disk {
    let disk = Disk::create(dir, kind, DISK_BYTES);
    write_block(&disk.open().unwrap(), 1, 5);
    disk.prepare("1");
    disk
}

fn write_intent(disk: &Disk) {
    let text = serde_json::json!({ "newConfig": disk.new_config() }).to_string();
    fs::write(disk.intent(), text).unwrap();
}

fn seal_upper(disk: &Disk, upper: &str) {
    seal(&disk.data(upper), &disk.index(upper)).unwrap();
}

/// It opens, has its bytes, can be written and keeps that; no intent is left.
fn assert_goes_on(disk: &Disk, layers: usize) {
    for byte in [6, 8] {
        let image = disk.open().unwrap();
        assert!(!disk.intent().exists());
        assert_eq!(image.layer_count(), layers);
        assert_eq!((byte_at(&image, 0), byte_at(&image, 1)), (7, 5));
        write_block(&image, 2, byte);
        drop(image);
        assert_eq!(byte_at(&disk.open().unwrap(), 2), byte);
    }
}

#[test]
fn an_intent_alone_means_nothing() {
    for kind in KINDS {
        let dir = scratch();
        let disk = prepared(dir.path(), kind);
        write_intent(&disk);
        assert_goes_on(&disk, 2);
        assert!(disk.new_config().exists());
    }
}

#[test]
fn a_sealed_layer_with_an_intent_goes_on_with_the_new_config() {
    for kind in KINDS {
        let dir = scratch();
        let disk = prepared(dir.path(), kind);
        write_intent(&disk);
        seal_upper(&disk, "0");
        assert_goes_on(&disk, 3);
        assert!(!disk.new_config().exists());
    }
}

#[test]
fn an_intent_whose_new_config_is_in_place_is_removed() {
    let dir = scratch();
    let disk = prepared(dir.path(), UpperKind::AppendOnly);
    write_intent(&disk);
    seal_upper(&disk, "0");
    fs::rename(disk.new_config(), disk.config()).unwrap();
    assert_goes_on(&disk, 3);
}

#[test]
fn an_intent_that_is_cut_short_means_nothing() {
    for text in ["", "{", "{\"newConfig\":\"/tm", "[]", "\0\0\0\0"] {
        let dir = quick_scratch();
        let disk = prepared(dir.path(), UpperKind::AppendOnly);
        fs::write(disk.intent(), text).unwrap();
        assert_goes_on(&disk, 2);
    }
}

#[test]
fn a_seal_that_is_cut_short_means_nothing() {
    for kind in KINDS {
        let dir = quick_scratch();
        let disk = prepared(dir.path(), kind);
        seal_upper(&disk, "0");
        let sealed = fs::metadata(disk.data("0")).unwrap().len();
        write_intent(&disk);
        // The trailer is half there.
        let file = fs::File::options().write(true).open(disk.data("0"));
        file.unwrap().set_len(sealed - 2048).unwrap();
        assert_goes_on(&disk, 2);
    }
}

#[test]
fn a_sealed_layer_whose_new_config_is_gone_says_what_to_do_and_it_helps() {
    let dir = scratch();
    let disk = prepared(dir.path(), UpperKind::AppendOnly);
    write_intent(&disk);
    seal_upper(&disk, "0");
    let new_config = fs::read(disk.new_config()).unwrap();
    fs::remove_file(disk.new_config()).unwrap();
    let error = disk.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let text = error.to_string();
    assert!(
        text.contains("new.json") && text.contains("0.data"),
        "{text}"
    );
    assert!(disk.intent().exists());
    let result = fs::read_to_string(dir.path().join("result")).unwrap();
    assert!(result.starts_with("failed:"), "{result}");
    fs::write(disk.new_config(), new_config).unwrap();
    assert_goes_on(&disk, 3);
}

#[test]
fn whoever_only_reads_is_told_to_start_the_daemon_and_changes_nothing() {
    let dir = scratch();
    let disk = prepared(dir.path(), UpperKind::AppendOnly);
    write_intent(&disk);
    seal_upper(&disk, "0");
    let config = layers::config::ImageConfig::load(&disk.config()).unwrap();
    let service = Service::default();
    let opened = [
        Image::open(&disk.config(), &service, Access::Read),
        Image::open_layers(&config, &service, Access::Read),
        Image::open_layers(&config, &service, Access::Write),
    ];
    for opened in opened {
        let error = opened.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("snapshot"), "{error}");
    }
    assert!(disk.intent().exists() && disk.new_config().exists());
    assert_goes_on(&disk, 3);
}

#[test]
fn nobody_finishes_the_snapshot_of_a_disk_that_is_open() {
    let dir = scratch();
    let disk = prepared(dir.path(), UpperKind::AppendOnly);
    let image = disk.open().unwrap();
    write_intent(&disk);
    let error = disk.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(disk.intent().exists());
    drop(image);
    assert_goes_on(&disk, 2);
}

#[test]
fn whoever_opens_a_disk_while_snapshots_are_taken_disturbs_nothing() {
    let dir = quick_scratch();
    let disk = Disk::create(dir.path(), UpperKind::AppendOnly, DISK_BYTES);
    let image = disk.open().unwrap();
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| {
            start.wait();
            for number in 1..60_u8 {
                disk.prepare(&number.to_string());
                write_block(&image, number.into(), number);
                disk.snapshot(&image).unwrap();
            }
        });
        start.wait();
        while !taking.is_finished() {
            let error = disk.open().unwrap_err();
            // Or it has read the config before, and the layers after, the one was replaced.
            let is_late = error.to_string().contains("was sealed");
            assert!(is_late || error.kind() == ErrorKind::Busy, "{error}");
        }
        taking.join().unwrap();
    });
    drop(image);
    let image = disk.open().unwrap();
    for number in 1..60_u8 {
        assert_eq!(byte_at(&image, number.into()), number);
    }
}

#[test]
fn a_config_in_another_spelling_is_the_same_config() {
    let (dir, links) = (scratch(), scratch());
    let disk = prepared(dir.path(), UpperKind::AppendOnly);
    let [config, new_config] = ["config", "new"].map(|name| links.path().join(name));
    std::os::unix::fs::symlink(disk.config(), &config).unwrap();
    std::os::unix::fs::symlink(disk.new_config(), &new_config).unwrap();
    let image = Image::open(&config, &Service::default(), Access::Write).unwrap();
    image.snapshot(&config, &new_config).unwrap();
    drop(image);
    assert!(fs::symlink_metadata(&config).unwrap().is_symlink());
    assert_goes_on(&disk, 3);
    // The intent is found from wherever one looks.
    disk.prepare("2");
    write_intent(&disk);
    seal_upper(&disk, "1");
    let image = Image::open(&config, &Service::default(), Access::Write).unwrap();
    assert_eq!(image.layer_count(), 4);
}

#[test]
fn a_result_file_that_is_a_file_of_the_upper_is_refused() {
    for file in ["0.data", "0.index"] {
        let dir = scratch();
        let disk = Disk::create(dir.path(), UpperKind::AppendOnly, DISK_BYTES);
        let mut config = disk.json(&[disk.base()], Some("0"));
        config["resultFile"] = dir.path().join(file).to_str().unwrap().into();
        crate::support::write_json(&disk.config(), &config);
        let error = disk.open().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("resultFile"), "{error}");
    }
}
