//! Daemon and VM die while the guest writes.

use anyhow::{Context, Result, ensure};
use qemu_tests::daemon::Daemon;
use qemu_tests::image::{Image, UpperKind, check_ext4};
use qemu_tests::lab::Lab;
use qemu_tests::vm::Vm;

use crate::fio::verified_writes;

/// A writable root disk and a data disk, one of each kind.
struct Disks {
    root: Image,
    data: Image,
}

impl Disks {
    fn new(lab: &Lab) -> Result<Self> {
        let below = lab.roomy_root_image("below")?;
        Ok(Self {
            root: lab.writable_image("root", &below, UpperKind::AppendOnly)?,
            data: lab.empty_disk(lab.dir(), "data", UpperKind::Sparse, 1)?,
        })
    }

    fn serve<'lab>(&self, lab: &'lab Lab) -> Result<Daemon<'lab>> {
        lab.start_daemon("crashes", &[&self.root, &self.data])
    }

    fn boot<'lab>(&self, lab: &'lab Lab, name: &str, daemon: &Daemon<'_>) -> Result<Vm<'lab>> {
        let vm = lab.vm(name).disk(daemon.socket(0)?);
        let vm = vm.disk(daemon.socket(1)?).writable_root_on_first_disk();
        vm.boot()
    }
}

/// Writes and verifies on both disks at a time; says "writing" every second until that is done.
fn verified_writes_on_both_disks() -> String {
    format!(
        "({}) & root=$!
         ({}) & data=$!
         while kill -0 $root || kill -0 $data; do
             echo writing
             sleep 1
         done 2>/run/gone
         wait $root && wait $data",
        verified_writes("/srv/fio", 24),
        verified_writes("/mnt/fio", 24)
    )
}

#[test]
fn a_daemon_killed_under_writes_comes_back_and_the_guest_never_notices() -> Result<()> {
    const KILLS: usize = 5;
    Lab::run(|lab| {
        let disks = Disks::new(lab)?;
        let mut daemon = disks.serve(lab)?;
        let mut vm = disks.boot(lab, "goes-on", &daemon)?;
        vm.run("mke2fs -q -t ext4 /dev/vdb && mount /dev/vdb /mnt")?;

        let mut writes = vm.start(&verified_writes_on_both_disks())?;
        let mut kills = 0;
        while writes.next_line(lab.deadline(120))?.is_some() {
            if kills < KILLS {
                daemon.kill()?;
                daemon.start_again()?;
                kills += 1;
            }
        }
        writes.finish(lab.deadline(10))?;
        ensure!(kills == KILLS, "fio had ended after {kills} kills");

        vm.run("umount /mnt")?;
        vm.power_off()?;
        daemon.stop()?;
        check_ext4(&lab.export(&disks.root, "root")?)?;
        check_ext4(&lab.export(&disks.data, "data")?)
    })
}

/// Puts new files on both disks for ever, and prints the checksum of each once fsync(2) has
/// returned for it and its directory. Meanwhile fio writes, with a flush now and then.
const ENDLESS_FILES: &str = "
    mkdir -p /srv/kept /mnt/kept /srv/fio /mnt/fio
    for dir in /srv /mnt; do
        fio --directory=$dir/fio --name=load --size=32m --ioengine=libaio --direct=1 --iodepth=8 \
            --rw=randwrite --bsrange=512-64k --blockalign=512 --fsync=8 --time_based --runtime=600 \
            >/run/fio.output &
    done
    number=$(ls /srv/kept | wc -l)
    while :; do
        for dir in /srv/kept /mnt/kept; do
            head -c $((number * 1000 + 5001)) /dev/urandom >$dir/$number
            sync $dir/$number && sync $dir && sha256sum $dir/$number
        done
        number=$((number + 1))
    done";

#[test]
fn what_was_synced_is_there_after_vm_and_daemon_were_killed() -> Result<()> {
    const FILES: usize = 20;
    Lab::run(|lab| {
        let disks = Disks::new(lab)?;
        let mut daemon = disks.serve(lab)?;
        let mut vm = disks.boot(lab, "round-0", &daemon)?;
        vm.run("mkfs.xfs -q /dev/vdb && mount /dev/vdb /mnt")?;
        let mut sums = String::new();
        for round in 1..=2 {
            let mut files = vm.start(ENDLESS_FILES)?;
            for _ in 0..FILES {
                let sum = files.next_line(lab.deadline(60))?;
                sums.push_str(&sum.context("the files ended")?);
                sums.push('\n');
            }
            if round == 1 {
                vm.kill()?;
            } else {
                // At once, as when the host's memory runs out.
                daemon.kill()?;
                vm.kill()?;
                daemon.start_again()?;
            }
            vm = disks.boot(lab, &format!("round-{round}"), &daemon)?;
            vm.run("dmesg | grep 'EXT4-fs (vda): recovery complete'")?;
            vm.run("mount /dev/vdb /mnt")?;
            vm.run(&format!("sha256sum --quiet -c <<'END'\n{sums}END"))?;
        }
        vm.run("umount /mnt && xfs_repair -n /dev/vdb")?;
        vm.power_off()?;
        daemon.stop()?;
        check_ext4(&lab.export(&disks.root, "root")?)
    })
}
