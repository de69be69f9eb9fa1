//! File systems that a guest makes on an empty writable disk.

use anyhow::{Context, Result, ensure};
use qemu_tests::guest_assets::GuestAssets;
use qemu_tests::image::UpperKind;
use qemu_tests::lab::Lab;

use crate::fio::verified_writes;

#[test]
fn xfs_on_an_append_only_disk_is_written_trimmed_kept_and_clean() -> Result<()> {
    disk_is_written_trimmed_kept_and_clean(UpperKind::AppendOnly, "xfs", "xfs_repair -n /dev/vdb")
}

#[test]
fn btrfs_on_a_sparse_disk_is_written_trimmed_kept_and_clean() -> Result<()> {
    disk_is_written_trimmed_kept_and_clean(UpperKind::Sparse, "btrfs", "btrfs check /dev/vdb")
}

fn disk_is_written_trimmed_kept_and_clean(
    kind: UpperKind,
    file_system: &str,
    check: &str,
) -> Result<()> {
    Lab::run(|lab| {
        let root = lab.import_image("root", &GuestAssets::get()?.root_disk)?;
        let disk = lab.empty_disk(lab.dir(), "disk", kind, 1)?;
        let upper = disk.upper.as_ref().context("a writable layer")?;
        let daemon = lab.start_daemon("data", &[&root, &disk])?;
        let boot = |name| {
            let vm = lab.vm(name).disk(daemon.socket(0)?);
            vm.disk(daemon.socket(1)?).root_on_first_disk().boot()
        };
        let mount = format!("mount -t {file_system} /dev/vdb /mnt");

        let mut vm = boot("makes")?;
        vm.run(&format!("mkfs -t {file_system} /dev/vdb && {mount}"))?;
        vm.run(&verified_writes("/mnt/fio", 16))?;
        let kept = vm.run("head -c 5000001 /dev/urandom >/mnt/kept && sha256sum /mnt/kept")?;
        vm.run("head -c 33554432 /dev/urandom >/mnt/fio/more && sync")?;
        let full = upper.data_bytes_on_host()?;
        vm.run("rm -r /mnt/fio && sync && fstrim /mnt && touch /mnt/trimmed && sync")?;
        let trimmed = upper.data_bytes_on_host()?;
        ensure!(
            trimmed + (48 << 20) < full,
            "{full} bytes before fstrim, {trimmed} after it"
        );
        vm.run("umount /mnt")?;
        vm.shut_down()?;

        let mut vm = boot("looks")?;
        vm.run(check)?;
        vm.run(&mount)?;
        assert_eq!(vm.run("sha256sum /mnt/kept")?, kept);
        vm.run("test -e /mnt/trimmed && umount /mnt")?;
        vm.shut_down()?;
        daemon.stop()
    })
}
