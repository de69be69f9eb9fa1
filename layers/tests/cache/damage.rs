use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use layers::{Dest, Progress, ReadAt, Wait};

use crate::support::{Host, Origin, check_all, content, fill, read};

const SIZE: usize = 3_000_123;

fn open_for_writing(path: &std::path::Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn corrupt_blocks(host: &Host) -> u64 {
    host.metrics.cache_corrupt_blocks.load(Ordering::SeqCst)
}

#[test]
fn a_flipped_byte_of_the_media_is_found_and_only_its_block_fetched_again() {
    let bytes = content(30, SIZE);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    fill(&host.blob(&cache, &origin));
    drop(cache);
    for offset in [0_u64, 70_000, 2_999_999] {
        let media = open_for_writing(&host.media());
        let byte = bytes[usize::try_from(offset).unwrap()];
        media.write_all_at(&[byte ^ 1], offset).unwrap();
    }
    let before = origin.served();
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    check_all(&blob, &bytes);
    assert_eq!(corrupt_blocks(&host), 3);
    assert!(
        origin.served() - before <= 3 * 32_768,
        "{}",
        origin.served() - before
    );
    fill(&blob);
    assert!(std::fs::read(host.media()).unwrap() == bytes);
}

#[test]
fn a_blob_without_checksums_of_its_own_can_be_checked_at_every_read() {
    let bytes = content(31, SIZE);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    blob.check_every_read();
    fill(&blob);
    let mut buf = vec![0; 9000];
    let never = |buf: &mut [u8]| blob.read_at(70_000, Dest::from(buf), Wait::Never).unwrap();
    assert_eq!(never(&mut buf), Progress::Done);
    assert!(buf == bytes[70_000..79_000]);
    open_for_writing(&host.media())
        .write_all_at(&[bytes[72_000] ^ 1], 72_000)
        .unwrap();
    assert_eq!(never(&mut buf), Progress::Pending);
    assert!(read(&blob, 70_000, 9000) == bytes[70_000..79_000]);
    assert_eq!(corrupt_blocks(&host), 1);
}

#[test]
fn blocks_that_a_power_cut_left_empty_are_fetched_again() {
    let bytes = content(32, SIZE);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    fill(&host.blob(&cache, &origin));
    drop(cache);
    // The record reached the disk, of the media only some.
    let media = open_for_writing(&host.media());
    media.write_all_at(&vec![0; 1 << 20], 500_000).unwrap();
    let cache = host.cache();
    check_all(&host.blob(&cache, &origin), &bytes);
    // And the other way round: the media did, of the record's checksums none.
    drop(cache);
    let record = open_for_writing(&host.record());
    let len = record.metadata().unwrap().len();
    record
        .write_all_at(&vec![0; usize::try_from(len - 8192).unwrap()], 8192)
        .unwrap();
    let cache = host.cache();
    check_all(&host.blob(&cache, &origin), &bytes);
}

#[test]
fn a_record_or_media_that_does_not_fit_is_begun_anew() {
    let bytes = content(33, SIZE);
    let damages: [fn(&Host); 7] = [
        |host| {
            open_for_writing(&host.record())
                .write_all_at(b"x", 3)
                .unwrap();
        },
        |host| {
            open_for_writing(&host.record())
                .write_all_at(&[0; 4096], 0)
                .unwrap();
        },
        |host| open_for_writing(&host.record()).set_len(100).unwrap(),
        |host| open_for_writing(&host.record()).set_len(0).unwrap(),
        |host| std::fs::remove_file(host.record()).unwrap(),
        |host| std::fs::remove_file(host.media()).unwrap(),
        |host| open_for_writing(&host.media()).set_len(5).unwrap(),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
        let cache = host.cache();
        fill(&host.blob(&cache, &origin));
        drop(cache);
        damage(&host);
        let cache = host.cache();
        let blob = host.blob(&cache, &origin);
        check_all(&blob, &bytes);
        fill(&blob);
        assert_eq!(blob.present_bytes(), SIZE as u64, "damage {number}");
        assert_eq!(origin.served(), 2 * SIZE as u64, "damage {number}");
    }
}

#[test]
fn files_that_cannot_be_opened_now_are_read_past_and_not_begun_anew() {
    let bytes = content(29, SIZE);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    fill(&host.blob(&cache, &origin));
    drop(cache);
    let aside = host.dir.path().join("aside");
    std::fs::rename(host.media(), &aside).unwrap();
    std::fs::create_dir(host.media()).unwrap();
    let cache = host.cache();
    assert!(read(&host.blob(&cache, &origin), 70_000, 9000) == bytes[70_000..79_000]);
    drop(cache);
    std::fs::remove_dir(host.media()).unwrap();
    std::fs::rename(&aside, host.media()).unwrap();
    let served = origin.served();
    let cache = host.cache();
    check_all(&host.blob(&cache, &origin), &bytes);
    assert_eq!(origin.served(), served, "all of it is still kept");
}

#[test]
fn a_blob_of_another_size_is_begun_anew() {
    let (host, origin) = (Host::new(), Origin::new(content(34, SIZE)));
    let cache = host.cache();
    fill(&host.blob(&cache, &origin));
    let bytes = content(35, SIZE + 1);
    let other = Origin::new(bytes.clone());
    let blob = host.blob(&cache, &other);
    check_all(&blob, &bytes);
}

#[test]
fn a_record_that_somebody_cuts_costs_fetches_and_never_a_wrong_byte() {
    let bytes = content(36, SIZE);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    fill(&blob);
    check_all(&blob, &bytes);
    open_for_writing(&host.record()).set_len(0).unwrap();
    check_all(&blob, &bytes);
    check_all(&blob, &bytes);
}

#[test]
fn media_that_somebody_cuts_or_empties_is_fetched_again() {
    let bytes = content(37, SIZE);
    for (to, first) in [
        (0_u64, 0),
        (0, 2_900_000),
        (1_000_001, 0),
        (1_000_001, 2_900_000),
    ] {
        let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
        let cache = host.cache();
        let blob = host.blob(&cache, &origin);
        fill(&blob);
        check_all(&blob, &bytes);
        open_for_writing(&host.media()).set_len(to).unwrap();
        assert!(read(&blob, first, 5000) == bytes[usize::try_from(first).unwrap()..][..5000]);
        check_all(&blob, &bytes);
        check_all(&blob, &bytes);
    }
}

#[test]
fn distrusted_bytes_are_fetched_again_once() {
    let bytes = content(38, SIZE);
    let mut wrong = bytes.clone();
    wrong[1_000_000] ^= 1;
    let (host, origin) = (Host::new(), Origin::new(wrong.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    fill(&blob);
    check_all(&blob, &wrong);
    origin.replace(bytes.clone());
    assert!(blob.distrust(1_000_000, 100));
    check_all(&blob, &bytes);
    assert!(
        !blob.distrust(1_000_000, 100),
        "it was fetched again a moment ago"
    );
    assert!(blob.distrust(0, SIZE as u64));
    assert!(!blob.distrust(0, SIZE as u64));
    check_all(&blob, &bytes);
}

#[test]
fn bytes_distrusted_while_their_fetch_goes_on_are_not_kept() {
    let bytes = content(39, SIZE);
    let mut wrong = bytes.clone();
    wrong[1_000_000] ^= 1;
    let (host, origin) = (Host::new(), Origin::new(wrong.clone()));
    let cache = host.cache();
    let blob = std::sync::Arc::new(host.blob(&cache, &origin));
    crate::support::settle(&blob);
    origin.stop_at(Some(1_100_000));
    let prefetch = {
        let blob = std::sync::Arc::clone(&blob);
        std::thread::spawn(move || {
            blob.prefetch(
                900_000..1_300_000,
                layers::range_source::Urgency::Background,
            )
        })
    };
    origin.wait_until_stopped(1);
    assert!(read(&blob, 1_000_000, 1) == wrong[1_000_000..1_000_001]);
    origin.replace(bytes.clone());
    assert!(blob.distrust(1_000_000, 1));
    origin.stop_at(None);
    assert!(read(&blob, 1_000_000, 1) == bytes[1_000_000..1_000_001]);
    prefetch.join().unwrap().unwrap();
    check_all(&blob, &bytes);
}
