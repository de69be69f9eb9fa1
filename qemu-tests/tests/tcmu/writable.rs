//! Writable disks under file systems, fio and discards.

use anyhow::Result;
use qemu_tests::host_vm::{HostVm, PROGRAMS, SCRATCH};
use qemu_tests::lab::Lab;
use serde_json::Value;

use crate::scene;

const MIB: u64 = 1 << 20;

/// Two jobs write and check their halves at random; the disk is its own reference afterwards.
const FIO: &str = "fio --name=verify --ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite \
    --bsrange=512-64k --blockalign=512 --size=8M --offset_increment=512M --numjobs=2 --norandommap=0 \
    --verify=crc32c --do_verify=1 --verify_fatal=1 --group_reporting --minimal";

/// What `obd info` says of a writable layer, and the bytes that its data file takes.
#[derive(Debug)]
struct Layer {
    on_host: u64,
    used: u64,
}

fn layer(host: &mut HostVm<'_>, name: &str) -> Result<Layer> {
    let info = host.run(&format!(
        "cd {SCRATCH} && sync && {PROGRAMS}/obd --json info {name}.data {name}.index"
    ))?;
    let info: Value = serde_json::from_str(&info)?;
    let number = |field: &str| {
        let value = info.pointer(&format!("/0/writable/{field}"));
        value
            .and_then(Value::as_u64)
            .unwrap_or_else(|| panic!("no {field} in {info}"))
    };
    Ok(Layer {
        on_host: number("on_host_bytes"),
        used: number("used_bytes"),
    })
}

#[test]
fn random_writes_verify_and_survive_detaching() -> Result<()> {
    Lab::run(|lab| {
        let mut host = scene::boot_serving(lab.container_host("fio"))?;
        for (name, options) in [("log", ""), ("sparse", "-s")] {
            let config = scene::empty_disk(&mut host, name, options)?;
            let disk = scene::attach(&mut host, &config)?;
            host.run(&format!("cd /run && {FIO} --filename={disk} 2>&1"))?;
            let hash = scene::nonzero_mib(&mut host, &disk)?;
            assert!(
                hash.as_object().is_some_and(|hash| hash.len() > 8),
                "{hash}"
            );
            scene::detach(&mut host, &disk)?;
            let disk = scene::attach(&mut host, &config)?;
            assert_eq!(scene::nonzero_mib(&mut host, &disk)?, hash, "{name}");
            host.run(&format!(
                "cd /run && {FIO} --verify_only --filename={disk} 2>&1"
            ))?;
            scene::detach(&mut host, &disk)?;
        }
        host.shut_down()
    })
}

#[test]
fn file_systems_on_both_kinds_of_upper_stay_whole_and_give_back_space() -> Result<()> {
    Lab::run(|lab| {
        let mut host = scene::boot_serving(lab.container_host("file-systems"))?;
        for (name, options, make, check) in [
            ("ext4", "-s", "mkfs.ext4 -q", "e2fsck -fn"),
            ("xfs", "", "mkfs.xfs -q", "xfs_repair -n"),
        ] {
            let config = scene::empty_disk(&mut host, name, options)?;
            let disk = scene::attach(&mut host, &config)?;
            host.run(&format!("{make} {disk} && mkdir -p /run/image"))?;
            mount(&mut host, &disk)?;
            use_file_system(&mut host)?;
            let full = unmounted_layer(&mut host, &disk, name)?;

            let disk = scene::attach(&mut host, &config)?;
            mount(&mut host, &disk)?;
            host.run("cd /run/image && sha256sum -c /run/sums && rm big && sync && fstrim .")?;
            let trimmed = unmounted_layer(&mut host, &disk, name)?;
            check_less(&full, &trimmed);

            let disk = scene::attach(&mut host, &config)?;
            host.run(&format!("{check} {disk} 2>&1"))?;
            mount(&mut host, &disk)?;
            host.run("cd /run/image && sha256sum -c /run/sums")?;
            host.run("umount /run/image")?;
            discard_all(&mut host, &disk)?;
            scene::detach(&mut host, &disk)?;
            let left = layer(&mut host, name)?;
            assert_eq!(left.used, 0, "{left:?}");
        }
        host.shut_down()
    })
}

fn mount(host: &mut HostVm<'_>, disk: &str) -> Result<()> {
    host.run(&format!("mount -o discard {disk} /run/image"))
        .map(drop)
}

/// The layer of a disk that nobody uses any more: the daemon locks it as long as it does.
fn unmounted_layer(host: &mut HostVm<'_>, disk: &str, name: &str) -> Result<Layer> {
    host.run("umount /run/image")?;
    scene::detach(host, disk)?;
    layer(host, name)
}

/// A tree that is copied, a big file with a hole punched into it; their hashes are in `/run/sums`.
fn use_file_system(host: &mut HostVm<'_>) -> Result<()> {
    host.run(
        "set -e
         cd /run/image
         cp -a /usr/sbin tree
         head -c 96M /dev/urandom >big
         head -c 8M /dev/urandom >punched
         sync
         fallocate -p -o 1M -l 4M punched
         [ $(head -c 5M punched | tail -c 4M | tr -d '\\0' | wc -c) = 0 ]
         rm -r tree/x*; cp -a /usr/sbin/xfs* tree/ 2>/dev/null || true
         find tree punched -type f -exec sha256sum {} + >/run/sums
         sync",
    )
    .map(drop)
}

/// The disk uses less, and so does the host: an append-only layer punches holes into what is garbage.
fn check_less(full: &Layer, trimmed: &Layer) {
    let text = format!("{full:?} {trimmed:?}");
    assert!(trimmed.used + 90 * MIB < full.used, "{text}");
    assert!(trimmed.on_host + 90 * MIB < full.on_host, "{text}");
}

/// It reads as zeros then.
fn discard_all(host: &mut HostVm<'_>, disk: &str) -> Result<()> {
    host.run(&format!("blkdiscard -f {disk}"))?;
    let nothing = serde_json::json!({});
    assert_eq!(scene::nonzero_mib(host, disk)?, nothing);
    // Zeroing that may discard.
    host.run(&format!(
        "blkdiscard -z -o 1M -l 3M {disk} && blkdiscard -z {disk}"
    ))?;
    assert_eq!(scene::nonzero_mib(host, disk)?, nothing);
    Ok(())
}
