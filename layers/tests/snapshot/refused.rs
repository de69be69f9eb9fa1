//! Snapshots that cannot be: the disk goes on as if nobody had asked.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use layers::lsmt::upper::UpperKind;
use layers::{Access, ErrorKind, Image, Service};
use serde_json::json;

use crate::support::{DISK_BYTES, Disk, byte_at, quick_scratch, scratch, write_block, write_json};

/// Asks for a snapshot after `spoil`; the disk takes the refusal well, and the next snapshot too.
fn assert_refused(kind: ErrorKind, words: &str, spoil: impl FnOnce(&Disk)) {
    let dir = scratch();
    let disk = Disk::create(dir.path(), UpperKind::AppendOnly, DISK_BYTES);
    let image = disk.open().unwrap();
    write_block(&image, 1, 5);
    disk.prepare("1");
    let config = fs::read(disk.config()).unwrap();
    spoil(&disk);
    let spoiled = fs::read(disk.config()).unwrap();
    let error = disk.snapshot(&image).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert!(fs::read(disk.config()).unwrap() == spoiled);
    assert!(!disk.intent().exists());
    assert_unsealed(&disk, "0");
    write_block(&image, 2, 6);
    // All is well again.
    fs::write(disk.config(), config).unwrap();
    fs::remove_file(disk.new_config()).ok();
    disk.prepare("good");
    disk.snapshot(&image).unwrap();
    write_block(&image, 3, 8);
    drop(image);
    let image = disk.open().unwrap();
    assert_eq!([1, 2, 3].map(|block| byte_at(&image, block)), [5, 6, 8]);
}

fn assert_unsealed(disk: &Disk, upper: &str) {
    assert!(!layers::lsmt::upper::is_sealed_in_place(&disk.data(upper)).unwrap());
}

fn rewrite(disk: &Disk, change: impl FnOnce(&mut serde_json::Value)) {
    let mut config = disk.json(&disk.layers(), Some("1"));
    change(&mut config);
    write_json(&disk.new_config(), &config);
}

#[test]
fn an_upper_that_is_the_current_one_however_it_is_spelled_is_refused() {
    assert_refused(ErrorKind::Config, "of the current one", |disk| {
        write_json(&disk.new_config(), &disk.json(&disk.layers(), Some("0")));
    });
    assert_refused(ErrorKind::Config, "of the current one", |disk| {
        rewrite(disk, |config| {
            config["upper"]["index"] = json!(disk.index("0"));
        });
    });
    assert_refused(ErrorKind::Config, "of the current one", |disk| {
        symlink(disk.data("0"), disk.dir.join("link")).unwrap();
        rewrite(disk, |config| {
            config["upper"]["data"] = json!(disk.dir.join("./link"));
        });
    });
    // A hard link is another name; the lock tells.
    assert_refused(ErrorKind::Busy, "in use", |disk| {
        fs::hard_link(disk.data("0"), disk.dir.join("link")).unwrap();
        rewrite(disk, |config| {
            config["upper"]["data"] = json!(disk.dir.join("link"));
        });
    });
}

#[test]
fn an_upper_that_is_no_good_is_refused() {
    assert_refused(ErrorKind::NotFound, "1.data", |disk| {
        fs::remove_file(disk.data("1")).unwrap();
    });
    assert_refused(ErrorKind::Config, "regular file", |disk| {
        fs::remove_file(disk.index("1")).unwrap();
        fs::create_dir(disk.index("1")).unwrap();
    });
    assert_refused(ErrorKind::Config, "the disk has", |disk| {
        disk.create_upper("small", DISK_BYTES / 2);
        write_json(
            &disk.new_config(),
            &disk.json(&disk.layers(), Some("small")),
        );
    });
    assert_refused(ErrorKind::Config, "not empty", |disk| {
        let upper = layers::lsmt::Upper::open(&disk.data("1"), &disk.index("1")).unwrap();
        write_block(&Image::with_upper(Vec::new(), upper).unwrap(), 0, 1);
    });
    assert_refused(ErrorKind::Unsupported, "turboOCI", |disk| {
        rewrite(disk, |config| config["upper"]["target"] = json!("/x"));
    });
}

#[test]
fn a_new_config_without_the_old_layer_on_top_is_refused() {
    assert_refused(ErrorKind::Config, "last lower", |disk| {
        write_json(&disk.new_config(), &disk.json(&[disk.base()], Some("1")));
    });
    assert_refused(ErrorKind::Config, "last lower", |disk| {
        let mut layers = disk.layers();
        layers.reverse();
        write_json(&disk.new_config(), &disk.json(&layers, Some("1")));
    });
    // The last of these lowers holds a trace, and no data.
    assert_refused(ErrorKind::Config, "last lower", |disk| {
        rewrite(disk, |config| config["accelerationLayer"] = json!(true));
    });
    assert_refused(ErrorKind::Config, "no writable layer", |disk| {
        write_json(&disk.new_config(), &disk.json(&disk.layers(), None));
    });
}

#[test]
fn a_new_config_that_is_none_is_refused() {
    assert_refused(ErrorKind::NotFound, "new.json", |disk| {
        fs::remove_file(disk.new_config()).unwrap();
    });
    assert_refused(ErrorKind::Config, "not a valid config", |disk| {
        fs::write(disk.new_config(), "{").unwrap();
    });
    assert_refused(ErrorKind::Config, "regular file", |disk| {
        fs::remove_file(disk.new_config()).unwrap();
        let mut made = std::process::Command::new("mkfifo");
        assert!(made.arg(disk.new_config()).status().unwrap().success());
    });
}

#[test]
fn a_config_that_was_changed_behind_the_disk_is_not_replaced() {
    assert_refused(ErrorKind::Config, "was changed", |disk| {
        disk.create_upper("other", DISK_BYTES);
        write_json(&disk.config(), &disk.json(&[disk.base()], Some("other")));
    });
}

#[test]
fn a_file_in_the_place_of_the_layer_that_is_written_is_not_stacked() {
    let dir = scratch();
    let disk = Disk::create(dir.path(), UpperKind::AppendOnly, DISK_BYTES);
    let image = disk.open().unwrap();
    write_block(&image, 1, 5);
    disk.prepare("1");
    fs::rename(disk.data("0"), disk.dir.join("kept")).unwrap();
    disk.create_upper_sealed("0");
    let error = disk.snapshot(&image).unwrap_err();
    assert!(error.to_string().contains("another file"), "{error}");
    fs::rename(disk.dir.join("kept"), disk.data("0")).unwrap();
    assert_eq!(byte_at(&image, 1), 5);
    assert_unsealed(&disk, "0");
    disk.snapshot(&image).unwrap();
}

#[test]
fn a_config_that_cannot_be_renamed_leaves_the_disk_as_it_was() {
    for kind in crate::support::KINDS {
        let (dir, elsewhere) = (scratch(), quick_scratch());
        if device(dir.path()) == device(elsewhere.path()) {
            println!("one file system only: nothing to see here");
            return;
        }
        let disk = Disk::create(dir.path(), kind, DISK_BYTES);
        let image = disk.open().unwrap();
        write_block(&image, 1, 5);
        disk.prepare("1");
        let away = elsewhere.path().join("new.json");
        fs::copy(disk.new_config(), &away).unwrap();
        let error = image.snapshot(&disk.config(), &away).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV), "{error}");
        assert!(!disk.intent().exists());
        assert_unsealed(&disk, "0");
        assert_eq!(image.layer_count(), 2);
        write_block(&image, 2, 6);
        drop(image);
        let image = disk.open().unwrap();
        assert_eq!([1, 2].map(|block| byte_at(&image, block)), [5, 6]);
        // And now from where it can be renamed.
        disk.snapshot(&image).unwrap();
        assert_eq!([1, 2].map(|block| byte_at(&image, block)), [5, 6]);
    }
}

fn device(path: &Path) -> u64 {
    fs::metadata(path).unwrap().dev()
}

#[test]
fn a_disk_that_cannot_have_snapshots_says_so() {
    let dir = scratch();
    let disk = Disk::create(dir.path(), UpperKind::AppendOnly, DISK_BYTES);
    disk.prepare("1");
    let image = Image::open(&disk.config(), &Service::default(), Access::Read).unwrap();
    let error = disk.snapshot(&image).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    drop(image);
    write_json(&disk.config(), &disk.json(&[], Some("0")));
    let image = disk.open().unwrap();
    let error = disk.snapshot(&image).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("no lower"), "{error}");
}

#[test]
fn snapshots_asked_for_at_once_are_taken_one_after_the_other() {
    let dir = scratch();
    let disk = Disk::create(dir.path(), UpperKind::AppendOnly, DISK_BYTES);
    let image = disk.open().unwrap();
    disk.prepare("1");
    let start = std::sync::Barrier::new(4);
    let taken = std::thread::scope(|scope| {
        let taking = [(); 4].map(|()| {
            scope.spawn(|| {
                start.wait();
                disk.snapshot(&image).is_ok()
            })
        });
        taking.map(|thread| thread.join().unwrap())
    });
    // The others find that the new config is gone.
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
    assert_eq!(image.layer_count(), 3);
    drop(image);
    assert_eq!(disk.open().unwrap().layer_count(), 3);
}
