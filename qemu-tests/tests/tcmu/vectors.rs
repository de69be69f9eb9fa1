//! Images that other tools made, attached by `overlaybd-tcmu`: the disk has the bytes that were recorded with them.

use anyhow::Result;
use qemu_tests::host_vm::{DATA, HostVm, SCRATCH};
use qemu_tests::lab::Lab;

use crate::scene;

#[test]
fn an_image_attached_by_hand_or_by_obd_has_its_recorded_bytes() -> Result<()> {
    Lab::run(|lab| {
        let mut host = scene::boot_serving(lab.container_host("native"))?;
        let expected = format!("{}  -", scene::recorded_sha256("native")?);
        let config = scene::write_config(&mut host, "config.v1", &scene::native_layers(2), None)?;

        let disk =
            host.attach_target(1, &format!("overlaybd/{config}"), &["max_data_area_mb=4"])?;
        assert_eq!(host.run(&format!("sha256sum <{disk}"))?, expected);
        host.detach_target(1)?;

        let disk = scene::attach(&mut host, &config)?;
        assert_eq!(host.run(&format!("sha256sum <{disk}"))?, expected);
        check_tree(&mut host, &disk)?;
        scene::detach(&mut host, &disk)?;
        assert_eq!(host.run("ls /sys/class/uio")?, "");
        host.shut_down()
    })
}

/// Mounts the three layers of `native`: each has replaced something of the one below.
fn check_tree(host: &mut HostVm<'_>, disk: &str) -> Result<()> {
    host.run(&format!("mount -o ro {disk} /mnt"))?;
    let tree = host.run("cd /mnt && ls && find . -type f -exec cat {} + | wc -c")?;
    assert_eq!(tree, NATIVE_TREE);
    host.run("umount /mnt").map(drop)
}

/// What the kernel finds in a raw export of the image.
const NATIVE_TREE: &str = "";

#[test]
fn writable_layers_that_other_tools_wrote_have_their_recorded_bytes() -> Result<()> {
    Lab::run(|lab| {
        let vectors = scene::unpack_writable_vectors(lab.dir())?;
        let builder = lab.container_host("writable").file(&vectors, "writable");
        let mut host = scene::boot_serving(builder)?;
        let lowers = scene::native_layers(1);
        host.run(&format!(
            "cp --sparse=always {DATA}/writable/{{log,sparse}}.{{data,index}} {SCRATCH}/"
        ))?;
        let mut disks = Vec::new();
        for kind in ["log", "sparse"] {
            let files = (
                format!("{SCRATCH}/{kind}.data"),
                format!("{SCRATCH}/{kind}.index"),
            );
            let upper = Some((files.0.as_str(), files.1.as_str()));
            let config = scene::write_config(&mut host, kind, &lowers, upper)?;
            disks.push(scene::attach(&mut host, &config)?);
        }
        let [log, sparse] = [&disks[0], &disks[1]];
        let sums = host.run(&format!(
            "sha256sum <{log} >/run/log & sha256sum <{sparse}; wait; cat /run/log"
        ))?;
        let expected = format!("{}  -", scene::recorded_sha256("writable")?);
        assert_eq!(sums, format!("{expected}\n{expected}"));
        host.shut_down()
    })
}
