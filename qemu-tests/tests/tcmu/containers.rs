//! Containers whose root file system is an image that `overlaybd-tcmu` serves.

use anyhow::Result;
use qemu_tests::host_vm::{HostVm, PROGRAMS, SCRATCH};
use qemu_tests::lab::Lab;

use crate::scene;

/// What a root file system needs for a shell, and a tree to compare.
const FILL: &str = r"
    set -e
    cd /mnt/image
    mkdir -p bin proc dev sys etc lib/x86_64-linux-gnu lib64
    cp /bin/bash /bin/cat bin/
    for library in $(ldd /bin/bash /bin/cat | grep -o '/lib[^ :]* ' | sort -u); do cp -L $library .$library; done
    cp -a /usr/sbin usr-sbin
    echo 'from the image' >etc/greeting
";

/// Reads from the image, writes a file that is to stay.
const PROGRAM: &str = "cat /etc/greeting; echo $0 >/written";

/// A layer with a tree, made in the host as a build makes one: written through a device, then committed.
fn make_layer(host: &mut HostVm<'_>) -> Result<String> {
    let config = scene::empty_disk(host, "build", "")?;
    let disk = scene::attach(host, &config)?;
    host.run(&format!(
        "mkdir -p /mnt/image && mkfs.ext4 -q {disk} && mount -o discard {disk} /mnt/image"
    ))?;
    host.run(FILL)?;
    host.run("umount /mnt/image")?;
    scene::detach(host, &disk)?;
    let layer = format!("{SCRATCH}/tree.obd");
    host.run(&format!(
        "cd {SCRATCH} && {PROGRAMS}/overlaybd-commit -z build.data build.index {layer}"
    ))?;
    Ok(layer)
}

/// Runs [`PROGRAM`] with runc over the root file system `root`; returns its output.
fn runc(host: &mut HostVm<'_>, name: &str, root: &str) -> Result<String> {
    host.run(&format!(
        r#"set -e
        mkdir -p {SCRATCH}/{name}.bundle && cd {SCRATCH}/{name}.bundle
        rm -f config.json && runc spec
        python3 - <<'END'
import json
spec = json.load(open("config.json"))
spec["process"].update(terminal=False, args=["/bin/bash", "-c", "{PROGRAM}", "{name}"])
spec["root"] = dict(path="{root}", readonly=False)
json.dump(spec, open("config.json", "w"))
END
        runc run {name}"#
    ))
}

/// As [`runc`], with containerd.
fn ctr(host: &mut HostVm<'_>, name: &str, root: &str) -> Result<String> {
    host.run(&format!(
        "ctr run --rm --rootfs {root} {name} /bin/bash -c '{PROGRAM}' {name}"
    ))
}

fn start_containerd(host: &mut HostVm<'_>) -> Result<()> {
    host.run(
        "containerd >/run/containerd.log 2>&1 &
         for try in $(seq 300); do ctr version >/run/ctr.log 2>&1 && exit 0; sleep 0.1; done
         cat /run/ctr.log /run/containerd.log; exit 1",
    )
    .map(drop)
}

#[test]
fn containers_run_from_read_only_and_writable_images() -> Result<()> {
    Lab::run(|lab| {
        let mut host = scene::boot_serving(lab.container_host("containers"))?;
        let layer = [make_layer(&mut host)?];
        start_containerd(&mut host)?;

        let config = scene::write_config(&mut host, "below", &layer, None)?;
        let below = scene::attach(&mut host, &config)?;
        host.run(&format!(
            "cd {SCRATCH} && mkdir lower upper work merged && mount -o ro {below} lower && \
             diff -r --no-dereference lower/usr-sbin /usr/sbin && \
             mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged"
        ))?;
        check_both_runtimes(&mut host, &format!("{SCRATCH}/merged"), "over")?;
        let found = host.run(&format!(
            "cat {SCRATCH}/upper/written; ls {SCRATCH}/lower/written 2>&1 | grep -c 'No such file'"
        ))?;
        assert_eq!(found, "over-ctr\n1");
        host.run(&format!("cd {SCRATCH} && umount merged lower"))?;
        scene::detach(&mut host, &below)?;

        host.run(&format!(
            "cd {SCRATCH} && {PROGRAMS}/overlaybd-create -s top.data top.index 1"
        ))?;
        let upper = (
            format!("{SCRATCH}/top.data"),
            format!("{SCRATCH}/top.index"),
        );
        let config = scene::write_config(&mut host, "top", &layer, Some((&upper.0, &upper.1)))?;
        let disk = scene::attach(&mut host, &config)?;
        host.run(&format!("mount {disk} /mnt/image"))?;
        check_both_runtimes(&mut host, "/mnt/image", "on")?;
        // Still there when the device is another one.
        host.run("umount /mnt/image")?;
        scene::detach(&mut host, &disk)?;
        let disk = scene::attach(&mut host, &config)?;
        let kept = host.run(&format!(
            "e2fsck -fn {disk} >/run/fsck 2>&1 || cat /run/fsck; mount -o ro {disk} /mnt/image; cat /mnt/image/written"
        ))?;
        assert_eq!(kept, "on-ctr");
        host.shut_down()
    })
}

fn check_both_runtimes(host: &mut HostVm<'_>, root: &str, name: &str) -> Result<()> {
    let written = format!("cat {root}/written");
    let greeting = "from the image";
    assert_eq!(runc(host, &format!("{name}-runc"), root)?, greeting);
    assert_eq!(host.run(&written)?, format!("{name}-runc"));
    assert_eq!(ctr(host, &format!("{name}-ctr"), root)?, greeting);
    assert_eq!(host.run(&written)?, format!("{name}-ctr"));
    Ok(())
}
