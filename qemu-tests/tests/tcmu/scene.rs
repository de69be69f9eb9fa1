//! A container host whose daemon serves, and the images that tests attach.
//!
//! test -> **scene** -> `host_vm`, `scsi_targets`

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use qemu_tests::host_vm::{DATA, HostBuilder, HostVm, PROGRAMS, SCRATCH};
use serde_json::{Value, json};

/// The directory of the conformance vectors.
pub(crate) fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../layers/vectors")
}

/// The recorded hash of the whole disk of `native` or `writable`.
pub(crate) fn recorded_sha256(vector: &str) -> Result<String> {
    let file = File::open(vectors().join("expected.json")).context("open expected.json")?;
    let expected: Value = serde_json::from_reader(file)?;
    let sha256 = expected.pointer(&format!("/{vector}/sha256"));
    let sha256 = sha256.and_then(Value::as_str);
    Ok(sha256
        .with_context(|| format!("expected.json has no /{vector}/sha256"))?
        .to_owned())
}

/// Unpacks the writable vectors below `dir`.
pub(crate) fn unpack_writable_vectors(dir: &Path) -> Result<PathBuf> {
    let tree = dir.join("writable");
    fs::create_dir(&tree)?;
    let status = Command::new("tar")
        .args(["--zstd", "-xf"])
        .arg(vectors().join("writable/writable.tar.zst"))
        .arg("-C")
        .arg(&tree)
        .status()?;
    ensure!(status.success(), "unpack the writable vectors: {status}");
    Ok(tree)
}

/// Boots a host with the native vectors and the daemon's configuration, `overlaybd.json` in the scratch directory.
pub(crate) fn boot(builder: HostBuilder<'_>) -> Result<HostVm<'_>> {
    let mut host = builder.file(&vectors().join("native"), "native").boot()?;
    let daemon =
        json!({ "logConfig": { "logLevel": 1, "logPath": format!("{SCRATCH}/overlaybd.log") } });
    host.run(&format!("echo '{daemon}' >{SCRATCH}/overlaybd.json"))?;
    Ok(host)
}

/// As [`boot`], and the daemon serves.
pub(crate) fn boot_serving(builder: HostBuilder<'_>) -> Result<HostVm<'_>> {
    let mut host = boot(builder)?;
    host.start_overlaybd_tcmu(&format!("{SCRATCH}/overlaybd.json"))?;
    Ok(host)
}

/// The native layers up to number `top`.
pub(crate) fn native_layers(top: usize) -> Vec<String> {
    (0..=top)
        .map(|layer| format!("{DATA}/native/layer{layer}.obd"))
        .collect()
}

/// Writes the config of an image in the host; `upper` is the data and the index file of a writable layer.
pub(crate) fn write_config(
    host: &mut HostVm<'_>,
    name: &str,
    lowers: &[String],
    upper: Option<(&str, &str)>,
) -> Result<String> {
    let lowers: Vec<_> = lowers.iter().map(|file| json!({ "file": file })).collect();
    let mut image = json!({
        "repoBlobUrl": "",
        "lowers": lowers,
        "resultFile": format!("{SCRATCH}/{name}.result"),
    });
    if let (Some(image), Some((data, index))) = (image.as_object_mut(), upper) {
        image.insert("upper".to_owned(), json!({ "data": data, "index": index }));
    }
    let path = format!("{SCRATCH}/{name}.json");
    host.run(&format!("echo '{image}' >{path}"))?;
    Ok(path)
}

/// Makes an empty disk in the host; `options` are those of `overlaybd-create`. Returns its config.
pub(crate) fn empty_disk(
    host: &mut HostVm<'_>,
    name: &str,
    options: &str,
    gib: u32,
) -> Result<String> {
    let (data, index) = (
        format!("{SCRATCH}/{name}.data"),
        format!("{SCRATCH}/{name}.index"),
    );
    host.run(&format!(
        "{PROGRAMS}/overlaybd-create {options} {data} {index} {gib}"
    ))?;
    write_config(host, name, &[], Some((&data, &index)))
}

/// Attaches an image with `obd`; returns `/dev/sdX`.
pub(crate) fn attach(host: &mut HostVm<'_>, config: &str) -> Result<String> {
    host.run(&format!("{PROGRAMS}/obd attach {config}"))
}

/// Detaches a device with `obd`.
pub(crate) fn detach(host: &mut HostVm<'_>, device: &str) -> Result<()> {
    host.run(&format!("{PROGRAMS}/obd detach {device}"))
        .map(drop)
}
