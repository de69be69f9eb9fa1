//! Images that other tools made, attached by `overlaybd-tcmu`: the disk has the bytes that were recorded with them.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use qemu_tests::host_vm::{DATA, HostVm, SCRATCH};
use qemu_tests::lab::Lab;
use serde_json::json;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../layers/vectors")
}

fn native_sha256() -> Result<String> {
    let file = File::open(vectors().join("expected.json")).context("open expected.json")?;
    let expected: serde_json::Value = serde_json::from_reader(file)?;
    let sha256 = expected
        .pointer("/native/sha256")
        .and_then(|it| it.as_str());
    Ok(sha256
        .context("expected.json has no /native/sha256")?
        .to_owned())
}

/// A host with the vectors, the configuration of the daemon and that of the native image in its scratch directory.
fn boot<'lab>(lab: &'lab Lab, name: &str) -> Result<HostVm<'lab>> {
    let mut host = lab
        .container_host(name)
        .file(&vectors().join("native"), "native")
        .boot()?;
    let lowers = ["layer0.obd", "layer1.obd", "layer2.obd"]
        .map(|layer| json!({ "file": format!("{DATA}/native/{layer}") }));
    let image =
        json!({ "repoBlobUrl": "", "lowers": lowers, "resultFile": format!("{SCRATCH}/result") });
    let daemon =
        json!({ "logConfig": { "logLevel": 1, "logPath": format!("{SCRATCH}/overlaybd.log") } });
    host.run(&format!(
        "echo '{image}' >{SCRATCH}/config.v1.json; echo '{daemon}' >{SCRATCH}/overlaybd.json"
    ))?;
    host.start_overlaybd_tcmu(&format!("{SCRATCH}/overlaybd.json"))?;
    Ok(host)
}

#[test]
fn an_image_attached_by_hand_has_its_recorded_bytes() -> Result<()> {
    Lab::run(|lab| {
        let mut host = boot(lab, "by-hand")?;
        let config = format!("overlaybd/{SCRATCH}/config.v1.json");
        let disk = host.attach_target(1, &config, &["max_data_area_mb=4"])?;
        let sum = host.run(&format!("sha256sum <{disk}"))?;
        assert_eq!(sum, format!("{}  -", native_sha256()?));
        host.detach_target(1)?;
        host.shut_down()
    })
}

#[test]
fn an_image_attached_by_obd_has_its_recorded_bytes() -> Result<()> {
    Lab::run(|lab| {
        let mut host = boot(lab, "by-obd")?;
        let disk = host.run(&format!(
            "/mnt/programs/bin/obd attach {SCRATCH}/config.v1.json"
        ))?;
        let sum = host.run(&format!("sha256sum <{disk}"))?;
        assert_eq!(sum, format!("{}  -", native_sha256()?));
        host.run(&format!("/mnt/programs/bin/obd detach {disk}"))?;
        assert_eq!(host.run("ls /sys/class/uio")?, "");
        host.shut_down()
    })
}
