//! A guest whose disk is not on this host.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use qemu_tests::guest_assets::GuestAssets;
use qemu_tests::image::Image;
use qemu_tests::lab::Lab;
use qemu_tests::origin::Origin;
use serde_json::json;

const MIB: u64 = 1 << 20;

/// The guest's root disk, of which nothing is on this host, and its bytes in the registry.
fn remote_root(lab: &Lab, origin: &Origin) -> Result<(Image, u64)> {
    let image = lab.import_image("root", &GuestAssets::get()?.root_disk)?;
    let blobs = origin.take(&image)?;
    let remote = lab.remote_image(origin, "remote", &blobs, None, json!({}))?;
    Ok((remote, blobs.iter().map(|blob| blob.bytes).sum()))
}

#[test]
fn a_guest_boots_from_a_registry_and_a_second_time_from_what_is_kept() -> Result<()> {
    Lab::run(|lab| {
        let origin = Origin::start()?;
        let (image, image_bytes) = remote_root(lab, &origin)?;
        let host = lab.host("host", json!({}))?;
        let boot = |name: &str| {
            let daemon = lab.start_daemon_on(Some(&host), name, &[&image])?;
            let vm = lab.vm(name).disk(daemon.socket(0)?);
            let mut vm = vm.root_on_first_disk().boot()?;
            assert_eq!(vm.run("findmnt -n -o SOURCE,FSTYPE /")?, "/dev/vda ext4");
            assert_eq!(vm.run("python3 -c 'print(6 * 7)'")?, "42");
            vm.shut_down()?;
            daemon.stop()
        };
        boot("first")?;
        let (fetched, requests) = (origin.proxy.body_bytes(), origin.proxy.requests());
        // Past the test runner's capture: a figure to be seen.
        writeln!(
            std::io::stderr(),
            "boot from a registry: {} of {} MiB fetched in {requests} requests",
            fetched / MIB,
            image_bytes / MIB
        )?;
        ensure!(
            fetched < image_bytes / 2,
            "{fetched} of {image_bytes} bytes"
        );

        origin.proxy.forget();
        boot("second")?;
        assert_eq!(origin.proxy.log(), []);
        Ok(())
    })
}

#[test]
fn a_guest_waits_for_a_registry_that_dies_while_it_boots() -> Result<()> {
    Lab::run(|lab| {
        let origin = Origin::start()?;
        let (image, _) = remote_root(lab, &origin)?;
        let host = lab.host("host", json!({}))?;
        let daemon = lab.start_daemon_on(Some(&host), "waits", &[&image])?;
        let vm = lab.vm("waits").disk(daemon.socket(0)?);
        let mut vm = vm.root_on_first_disk().start()?;
        let wait_for_more = |count| {
            let come = origin.proxy.requests() + count;
            ensure!(
                origin
                    .proxy
                    .wait_for_requests(come, Duration::from_secs(60)),
                "the daemon asks no more"
            );
            Ok(())
        };
        wait_for_more(20)?;
        origin.registry.kill();
        wait_for_more(3)?; // In vain.
        origin.registry.start_again()?;

        vm.wait_until_booted()?;
        assert_eq!(vm.run("python3 -c 'print(6 * 7)'")?, "42");
        vm.shut_down()?;
        daemon.stop()
    })
}

#[test]
fn a_guest_gets_an_error_for_a_registry_that_is_gone_and_data_when_it_is_back() -> Result<()> {
    Lab::run(|lab| {
        let origin = Origin::start()?;
        let (image, _) = remote_root(lab, &origin)?;
        let host = lab.host("host", json!({ "readRetrySeconds": 5 }))?;
        lab.expect_in_logs("gave up after"); // of the daemon
        lab.expect_in_logs("I/O error, dev vda"); // of the guest
        let daemon = lab.start_daemon_on(Some(&host), "gone", &[&image])?;
        let mut vm = lab.vm("gone").disk(daemon.socket(0)?).boot()?;
        let read_first = "dd if=/dev/vda bs=64k count=16 iflag=direct status=none | sha256sum";
        let first = vm.run(read_first)?;

        origin.registry.kill();
        let read = "dd if=/dev/vda bs=4k count=1 skip=8192 iflag=direct status=none | sha256sum";
        let read_in_vain = "dd if=/dev/vda bs=4k count=1 skip=8192 iflag=direct of=/dev/null 2>&1";
        let started = Instant::now();
        let error = vm.run(&format!("! {read_in_vain}"))?;
        let seconds = started.elapsed().as_secs();
        assert!(error.contains("Input/output error"), "{error}");
        assert!((4..30).contains(&seconds), "{seconds} s");
        let log = std::fs::read_to_string(lab.log_file("daemon-gone"))?;
        let line = log.lines().find(|line| line.contains("gave up after"));
        let line = line.unwrap_or_default();
        assert!(line.contains("/blobs/sha256:"), "{line}");
        assert!(line.contains(" at byte "), "{line}");
        assert_eq!(vm.run(read_first)?, first, "what is kept can be read");

        origin.registry.start_again()?;
        vm.run(read)?;
        vm.kill()?;
        daemon.stop()
    })
}
