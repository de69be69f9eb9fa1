//! A container host whose daemon serves, and the images that tests attach.
//!
//! test -> **scene** -> shell, `host_vm`, `scsi_targets`

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use qemu_tests::host_vm::{DATA, HostBuilder, HostVm, PROGRAMS, SCRATCH};
use serde_json::{Value, json};

use crate::shell::script;

/// The directory of the conformance vectors.
pub(crate) fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../layers/vectors")
}

/// The recorded hashes of every MiB of the disk of `native` or `writable` that is not all zero.
pub(crate) fn recorded_mib(vector: &str) -> Result<Value> {
    let file = File::open(vectors().join("expected.json")).context("open expected.json")?;
    let mut expected: Value = serde_json::from_reader(file)?;
    let mib = expected.pointer_mut(&format!("/{vector}/nonzero_mib"));
    mib.map(Value::take)
        .with_context(|| format!("expected.json has no /{vector}/nonzero_mib"))
}

/// What [`recorded_mib`] is compared with. All of the disk is read; zeros are not hashed, which would take a minute.
pub(crate) fn nonzero_mib(host: &mut HostVm<'_>, disk: &str) -> Result<Value> {
    let script = r#"
import hashlib, json
hashes, zeros, mib = {}, bytes(1 << 20), 0
with open(DISK, "rb", buffering=0) as disk:
    while chunk := disk.read(1 << 20):
        if chunk != zeros:
            hashes[str(mib)] = hashlib.sha256(chunk).hexdigest()[:16]
        mib += 1
print(json.dumps(hashes if mib == 1024 else mib))
"#;
    let script = script.replace("DISK", &format!("{disk:?}"));
    let hashes = host.run(&format!("python3 - <<'END'\n{script}\nEND"))?;
    serde_json::from_str(&hashes).with_context(|| format!("hashes of {disk}: {hashes:?}"))
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

/// Boots a host with the native vectors; the daemon is configured and does not run.
pub(crate) fn boot(builder: HostBuilder<'_>) -> Result<HostVm<'_>> {
    let mut host = builder.file(&vectors().join("native"), "native").boot()?;
    host.configure_overlaybd_tcmu(json!({}))?;
    Ok(host)
}

/// As [`boot`], and the daemon serves.
pub(crate) fn boot_serving(builder: HostBuilder<'_>) -> Result<HostVm<'_>> {
    let mut host = boot(builder)?;
    host.start_overlaybd_tcmu()?;
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

/// Makes an empty disk of 1 GiB in the host; `options` are those of `overlaybd-create`. Returns its config.
pub(crate) fn empty_disk(host: &mut HostVm<'_>, name: &str, options: &str) -> Result<String> {
    script(host, 20, &format!("writable {name} {options}"))?;
    Ok(format!("{SCRATCH}/{name}.json"))
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
