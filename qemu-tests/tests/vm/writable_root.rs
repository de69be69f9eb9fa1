//! A guest that writes to its root disk: an image with a writable layer on top.

use anyhow::{Context, Result, ensure};
use qemu_tests::image::{UpperKind, check_ext4};
use qemu_tests::lab::Lab;

use crate::fio::verified_writes;

const MIB: u64 = 1 << 20;

#[test]
fn a_root_disk_over_an_append_only_layer_is_written_trimmed_and_kept() -> Result<()> {
    root_disk_is_written_trimmed_and_kept(UpperKind::AppendOnly)
}

#[test]
fn a_root_disk_over_a_sparse_layer_is_written_trimmed_and_kept() -> Result<()> {
    root_disk_is_written_trimmed_and_kept(UpperKind::Sparse)
}

fn root_disk_is_written_trimmed_and_kept(kind: UpperKind) -> Result<()> {
    Lab::run(|lab| {
        let below = lab.roomy_root_image("root")?;
        let image = lab.writable_image("written", &below, kind)?;
        let upper = image.upper.as_ref().context("a writable layer")?;
        let daemon = lab.start_daemon("written", &[&image])?;
        let vm = lab.vm("writes").disk(daemon.socket(0)?);
        let mut vm = vm.writable_root_on_first_disk().boot()?;
        assert_eq!(vm.run("cat /sys/block/vda/ro")?, "0");
        vm.run(&verified_writes("/srv/fio", 16))?;
        let kept = vm.run("head -c 5000001 /dev/urandom >/srv/kept && sha256sum /srv/kept")?;
        vm.run("mv /usr/share/perl5 /srv/moved && rm -r /usr/share/doc")?;

        vm.run("head -c 67108864 /dev/urandom >/srv/fio/more && sync")?;
        let full = upper.data_bytes_on_host()?;
        vm.run("rm -r /srv/fio && sync && fstrim / && touch /srv/trimmed && sync")?;
        let trimmed = upper.data_bytes_on_host()?;
        ensure!(
            trimmed + 64 * MIB < full,
            "{full} bytes before fstrim, {trimmed} after it"
        );
        vm.power_off()?;
        daemon.stop()?;

        let daemon = lab.start_daemon("again", &[&image])?;
        let vm = lab.vm("again").disk(daemon.socket(0)?);
        let mut vm = vm.writable_root_on_first_disk().boot()?;
        assert_eq!(vm.run("sha256sum /srv/kept")?, kept);
        vm.run("test -e /srv/trimmed && test ! -e /srv/fio && test ! -e /usr/share/doc")?;
        vm.run("mv /srv/moved /usr/share/perl5 && cd / && grep -v share/doc/ /run/guest/tree.sha256 | sha256sum --quiet -c")?;
        vm.power_off()?;
        daemon.stop()?;
        check_ext4(&lab.export(&image, "written")?)
    })
}
