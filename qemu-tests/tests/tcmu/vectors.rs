//! Images that other tools made, attached by `overlaybd-tcmu`: the disk has the bytes that were recorded with them.

use anyhow::Result;
use qemu_tests::host_vm::{DATA, HostVm, SCRATCH};
use qemu_tests::lab::Lab;

use crate::scene;

#[test]
fn an_image_attached_by_hand_or_by_obd_has_its_recorded_bytes() -> Result<()> {
    Lab::run(|lab| {
        let mut host = scene::boot_serving(
            lab.container_host("native")
                .file(&scene::vectors().join("oci"), "oci"),
        )?;
        let expected = scene::recorded_mib("native")?;
        let config = scene::write_config(&mut host, "config.v1", &scene::native_layers(2), None)?;

        let disk =
            host.attach_target(1, &format!("overlaybd/{config}"), &["max_data_area_mb=4"])?;
        assert_eq!(scene::nonzero_mib(&mut host, &disk)?, expected);
        host.detach_target(1)?;

        let disk = scene::attach(&mut host, &config)?;
        assert_eq!(scene::nonzero_mib(&mut host, &disk)?, expected);
        check_tree(&mut host, &disk)?;
        scene::detach(&mut host, &disk)?;
        assert_eq!(host.run("ls /sys/class/uio")?, "");
        host.shut_down()
    })
}

/// The tree has what the topmost tar has, with owners, modes and times, and not what that tar takes away.
fn check_tree(host: &mut HostVm<'_>, disk: &str) -> Result<()> {
    host.run(&format!(
        "mkdir /run/image && mount -o ro {disk} /run/image"
    ))?;
    let tar = format!("{DATA}/oci/layer2.tar.gz");
    let compared = host.run(&format!(
        "cd /run/image && tar --compare --numeric-owner --exclude='.wh.*' -zf {tar} 2>&1"
    ))?;
    assert_eq!(compared, "");
    let whiteouts = host.run(&format!(
        "cd /run/image && for path in $(tar -tzf {tar} | grep '/\\.wh\\.[^.]' | sed 's,\\.wh\\.,,'); do
             ls -d $path 2>&1 | grep -q 'No such file' && echo gone
         done"
    ))?;
    assert_eq!(whiteouts, "gone");
    host.run("umount /run/image").map(drop)
}

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
        let expected = scene::recorded_mib("writable")?;
        for disk in disks {
            assert_eq!(scene::nonzero_mib(&mut host, &disk)?, expected);
        }
        host.shut_down()
    })
}
