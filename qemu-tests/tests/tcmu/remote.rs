//! Images that the container host has to fetch.

use std::fs::File;
use std::io::Read;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_tests::host_vm::{HostVm, SCRATCH};
use qemu_tests::image::Image;
use qemu_tests::lab::Lab;
use qemu_tests::origin::{Blob, Origin};
use qemu_tests::vm::HOST_LOOPBACK;
use serde_json::json;
use test_servers::{Fault, Faults};

use crate::scene;

const DISK_MIB: u64 = 32;

/// An image that cannot be compressed, and the hash of its disk.
fn random_image(lab: &Lab) -> Result<(Image, String)> {
    let raw = lab.dir().join("random.raw");
    let mut random = File::open("/dev/urandom")?.take(DISK_MIB << 20);
    std::io::copy(&mut random, &mut File::create(&raw)?)?;
    let output = Command::new("sha256sum").arg(&raw).output()?;
    let hash = String::from_utf8(output.stdout)?;
    let hash = hash.split_whitespace().next().context("a hash")?;
    Ok((lab.import_image("random", &raw)?, hash.to_owned()))
}

/// Settings with a cache of its own, and with or without background download.
fn configure(host: &mut HostVm<'_>, downloads: bool) -> Result<()> {
    host.configure_overlaybd_tcmu(json!({
        "cacheConfig": { "cacheType": "file", "cacheDir": format!("{SCRATCH}/cache"), "freeSpaceFloorMB": 0 },
        "credentialConfig": { "mode": "file", "path": "" },
        "download": { "enable": downloads, "delay": 0, "delayExtra": 1 },
        "enableAudit": false,
    }))
}

/// The host has no certificates, and needs none.
fn boot_serving<'lab>(lab: &'lab Lab, name: &str) -> Result<HostVm<'lab>> {
    lab.expect_in_logs("No CA certificates");
    let mut host = lab.container_host(name).network().boot()?;
    configure(&mut host, false)?;
    host.start_overlaybd_tcmu()?;
    Ok(host)
}

/// Writes the config of the image, whose layer is only in the registry.
fn write_image(host: &mut HostVm<'_>, origin: &Origin, blob: &Blob) -> Result<String> {
    let address = origin.proxy.address().to_string();
    let reached = address.replace("127.0.0.1", HOST_LOOPBACK);
    let dir = format!("{SCRATCH}/random.layer");
    host.run(&format!("mkdir {dir}"))?;
    let image = json!({
        "repoBlobUrl": origin.repo_blob_url().replace(&address, &reached),
        "lowers": [{ "digest": blob.digest, "size": blob.bytes, "dir": dir }],
        "resultFile": format!("{SCRATCH}/random.result"),
    });
    let path = format!("{SCRATCH}/random.json");
    host.run(&format!("echo '{image}' >{path}"))?;
    Ok(path)
}

fn hash(disk: &str, mib: u64, count: u64) -> String {
    format!(
        "dd if={disk} bs=1M skip={mib} count={count} iflag=direct status=none | sha256sum | cut -d' ' -f1"
    )
}

#[test]
fn a_read_that_waits_for_the_registry_holds_up_no_other() -> Result<()> {
    Lab::run(|lab| {
        lab.expect_in_logs("sent nothing for 30s");
        let origin = Origin::start()?;
        let (image, recorded) = random_image(lab)?;
        let blobs = origin.take(&image)?;
        let blob = blobs.first().context("a layer")?;
        let mut host = boot_serving(lab, "remote")?;
        let config = write_image(&mut host, &origin, blob)?;
        let disk = scene::attach(&mut host, &config)?;
        let first = host.run(&hash(&disk, 0, 1))?;
        ensure!(
            origin.proxy.body_bytes() < blob.bytes / 2,
            "far more fetched than was read"
        );

        let asked = origin.proxy.requests();
        origin.proxy.set_faults(Faults::always(Fault::Stall));
        let late = hash(&disk, DISK_MIB - 1, 1);
        host.run(&format!("({late} >/run/late) >/dev/null 2>&1 &"))?;
        ensure!(
            origin
                .proxy
                .wait_for_requests(asked + 1, Duration::from_secs(30)),
            "the read asks for nothing"
        );
        assert_eq!(host.run_within(20, &hash(&disk, 0, 1))?, first);
        assert_eq!(host.run("cat /run/late")?, "", "it does not wait");

        origin.proxy.set_faults(Faults::none());
        let arrives =
            "for try in $(seq 600); do [ -s /run/late ] && exit 0; sleep 0.1; done; exit 1";
        host.run(arrives).context("the read that waited")?;
        assert_eq!(host.run(&hash(&disk, 0, DISK_MIB))?, recorded);
        scene::detach(&mut host, &disk)?;
        host.shut_down()
    })
}

#[test]
fn the_settings_of_downloads_are_read_again_when_a_device_is_attached() -> Result<()> {
    Lab::run(|lab| {
        let origin = Origin::start()?;
        let (image, recorded) = random_image(lab)?;
        let blobs = origin.take(&image)?;
        let blob = blobs.first().context("a layer")?;
        let mut host = boot_serving(lab, "downloads")?;
        let config = write_image(&mut host, &origin, blob)?;
        let disk = scene::attach(&mut host, &config)?;
        scene::detach(&mut host, &disk)?;

        configure(&mut host, true)?;
        let disk = scene::attach(&mut host, &config)?;
        let whole = format!("{SCRATCH}/random.layer/overlaybd.commit");
        host.run(&format!(
            "for try in $(seq 600); do [ -s {whole} ] && exit 0; sleep 0.1; done; exit 1"
        ))
        .context("the download")?;
        origin.registry.kill();
        assert_eq!(host.run(&hash(&disk, 0, DISK_MIB))?, recorded);
        scene::detach(&mut host, &disk)?;
        host.shut_down()
    })
}
