use layers::{Dest, ErrorKind, Progress, ReadAt, Wait};

use crate::support::{Host, Origin, check_all, content, fill, read};

#[test]
fn every_byte_is_right_cold_warm_and_after_a_restart() {
    let bytes = content(1, 5_000_123);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    {
        let cache = host.cache();
        let blob = host.blob(&cache, &origin);
        check_all(&blob, &bytes);
        check_all(&blob, &bytes);
        fill(&blob);
        assert_eq!(blob.present_bytes(), bytes.len() as u64);
        assert_eq!(origin.served(), bytes.len() as u64);
    }
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    assert_eq!(blob.present_bytes(), bytes.len() as u64);
    check_all(&blob, &bytes);
    assert_eq!(
        origin.served(),
        bytes.len() as u64,
        "nothing was fetched again"
    );
}

#[test]
fn any_range_at_any_alignment_has_the_bytes_of_the_origin() {
    let bytes = content(2, 1_500_001);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..2000 {
        let start = random.usize(..bytes.len());
        let len = random.usize(..(bytes.len() - start).min(40_000) + 1);
        assert!(
            read(&blob, start as u64, len) == bytes[start..start + len],
            "{start} {len}"
        );
    }
    assert!(origin.served() <= bytes.len() as u64, "nothing twice");
}

#[test]
fn a_read_that_must_not_wait_is_pending_until_the_bytes_are_here() {
    let bytes = content(3, 3 << 20);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    let mut buf = vec![0; 5000];
    let never =
        |offset, buf: &mut [u8]| blob.read_at(offset, Dest::from(buf), Wait::Never).unwrap();
    assert_eq!(never(1 << 20, &mut buf), Progress::Pending);
    blob.read_exact_at(1 << 20, &mut buf).unwrap();
    fill(&blob);
    assert_eq!(never(1 << 20, &mut buf), Progress::Done);
    assert!(buf == bytes[1 << 20..(1 << 20) + 5000]);
    let mut across = vec![0; 600_000];
    assert_eq!(never(200_000, &mut across), Progress::Done);
    assert!(across == bytes[200_000..800_000]);
}

#[test]
fn a_range_beyond_the_end_is_refused() {
    let (host, origin) = (Host::new(), Origin::new(content(4, 10_000)));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    for (offset, len) in [(9_000, 1_001), (10_001, 0), (u64::MAX, 2)] {
        let error = blob.read_exact_at(offset, &mut vec![0; len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }
    assert!(read(&blob, 10_000, 0).is_empty());
}

#[test]
fn what_is_present_is_read_without_the_origin_and_nothing_else() {
    let bytes = content(5, 3 << 20);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    let mut buf = vec![0; 1000];
    assert!(!blob.read_if_present(1 << 20, &mut buf).unwrap());
    blob.prefetch(
        1 << 20..(1 << 20) + 1,
        layers::range_source::Urgency::Background,
    )
    .unwrap();
    assert!(blob.read_if_present(1 << 20, &mut buf).unwrap());
    assert!(buf == bytes[1 << 20..(1 << 20) + 1000]);
    assert!(!blob.read_if_present((1 << 20) + 4000, &mut buf).unwrap());
}

#[test]
fn an_empty_blob_can_be_opened() {
    let (host, origin) = (Host::new(), Origin::new(Vec::new()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    assert_eq!((blob.size(), blob.present_bytes()), (0, 0));
    assert!(read(&blob, 0, 0).is_empty());
    fill(&blob);
}

#[test]
fn a_name_that_is_no_digest_never_becomes_a_path() {
    let (host, origin) = (Host::new(), Origin::new(content(6, 100)));
    let cache = host.cache();
    let wanted = layers::cache::BlobUse {
        digest: "sha256:../../etc/passwd".to_owned(),
        place: layers::cache::Place::Shared,
        patience: host.patience.clone(),
        journal: host.journal.clone(),
    };
    let error = cache.blob(origin, wanted).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn a_layer_of_its_own_directory_is_kept_there() {
    let bytes = content(7, 1 << 20);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let layer = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let cache = host.cache();
    let place = layers::cache::Place::Layer(layer.path().to_owned());
    let blob = host.blob_of(&cache, &origin, crate::support::DIGEST, place);
    check_all(&blob, &bytes);
    fill(&blob);
    assert!(std::fs::read(layer.path().join(".download")).unwrap() == bytes);
    assert!(!host.media().exists());
}
