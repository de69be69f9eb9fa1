use std::os::unix::fs::FileExt;
use std::process::{Command, Output};

use layers::cache::admin::Admin;
use layers::{ErrorKind, ReadAt};

use crate::support::{DIGEST, Host, Origin, check_all, content, fill};

/// `obd cache ...` on the host's directory.
fn obd(host: &Host, arguments: &[&str]) -> Output {
    let config = host.dir.path().join("service.json");
    let dir = host.config.dir.display();
    let text = format!(
        r#"{{"cacheConfig":{{"cacheType":"file","cacheDir":"{dir}","freeSpaceFloorMB":0}}}}"#
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_obd"));
    command
        .arg("cache")
        .args(arguments)
        .arg("--service-config")
        .arg(config);
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn verify_finds_and_drops_what_is_damaged_under_a_reader() {
    let bytes = content(70, 1_000_001);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    fill(&blob);
    let output = obd(&host, &["verify"]);
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).contains("sound"));
    let media = std::fs::File::options()
        .write(true)
        .open(host.media())
        .unwrap();
    media.write_all_at(&[bytes[5000] ^ 1], 5000).unwrap();
    let output = obd(&host, &["verify", "--json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stdout(&output).contains(r#""dropped_blocks":1"#),
        "{output:?}"
    );
    assert_eq!(blob.present_bytes(), bytes.len() as u64 - 4096);
    check_all(&blob, &bytes);
    assert!(obd(&host, &["verify"]).status.success());
}

#[test]
fn a_listing_tells_what_is_kept_in_use_and_pinned() {
    let (host, origin) = (Host::new(), Origin::new(content(71, 1_000_001)));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    fill(&blob);
    assert!(obd(&host, &["pin", DIGEST]).status.success());
    let admin = Admin::open(&host.config).unwrap();
    let [report] = &admin.list().unwrap()[..] else {
        panic!("one blob");
    };
    assert_eq!(
        (report.blob_bytes, report.present_bytes),
        (Some(1_000_001), 1_000_001)
    );
    assert!(report.is_in_use && report.is_pinned && report.last_use > 1_700_000_000);
    let listing = stdout(&obd(&host, &["ls"]));
    assert!(
        listing.contains("in use, pinned") && listing.contains(DIGEST),
        "{listing}"
    );
    assert!(stdout(&obd(&host, &["du", "--json"])).contains(r#""blobs":1"#));
    assert!(obd(&host, &["unpin", DIGEST]).status.success());
    assert_eq!(obd(&host, &["unpin", DIGEST]).status.code(), Some(1));
    assert_eq!(admin.pin("../x").unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn clear_leaves_blobs_in_use_and_gc_keeps_to_the_limit() {
    let bytes = content(72, 6 << 20);
    let (mut host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    fill(&blob);
    let admin = Admin::open(&host.config).unwrap();
    assert_eq!(admin.clear().unwrap().1, [DIGEST]);
    check_all(&blob, &bytes);
    host.config.size_mib = Some(4);
    let small = Admin::open(&host.config).unwrap();
    assert!(small.collect().unwrap() >= 2 << 20);
    assert!(small.usage().unwrap().disk_bytes <= 4 << 20);
    check_all(&blob, &bytes);
    assert_eq!(blob.size(), 6 << 20);
    drop((blob, cache));
    let other = Admin::open(&host.config).unwrap();
    // A fetching thread may hold the blob for a moment longer.
    let deadline = std::time::Instant::now() + crate::support::LONG;
    while !other.clear().unwrap().1.is_empty() {
        assert!(std::time::Instant::now() < deadline);
    }
    assert!(other.list().unwrap().is_empty());
}
