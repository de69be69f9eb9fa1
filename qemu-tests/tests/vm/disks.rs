//! What a guest sees of its disks: content, several disks, several queues, sharing.

use std::fs;

use anyhow::{Context, Result};
use qemu_tests::guest_assets::GuestAssets;
use qemu_tests::lab::Lab;

use crate::expected::{DataOfNativeImage, native_image, native_sha256_line, sha256_line};

#[test]
fn two_disks_of_one_daemon_read_as_their_own_images() -> Result<()> {
    Lab::run(|lab| {
        let raw = &GuestAssets::get()?.root_disk;
        let bytes = fs::read(raw)?;
        let layered = native_image(lab)?;
        let imported = lab.import_image("imported", raw)?;
        let daemon = lab.start_daemon("two", &[&layered, &imported])?;
        let mut vm = lab
            .vm("two")
            .disk(daemon.socket(0)?)
            .disk(daemon.socket(1)?)
            .boot()?;

        assert_eq!(
            vm.run("blockdev --getsize64 /dev/vda")?,
            (1_u64 << 30).to_string()
        );
        assert_eq!(
            vm.run("blockdev --getsize64 /dev/vdb")?,
            bytes.len().to_string()
        );
        let layered_sha256 = vm.run("sha256sum </dev/vda")?;
        let imported_sha256 = vm.run("sha256sum </dev/vdb")?;
        assert_eq!(layered_sha256, native_sha256_line()?);
        assert_eq!(imported_sha256, sha256_line(&bytes));

        vm.shut_down()?;
        daemon.stop()
    })
}

#[test]
fn a_guest_with_four_cpus_reads_through_four_queues() -> Result<()> {
    Lab::run(|lab| {
        let image = native_image(lab)?;
        let daemon = lab.start_daemon("queues", &[&image])?;
        let mut vm = lab.vm("queues").cpus(4).disk(daemon.socket(0)?).boot()?;
        assert_eq!(vm.run("ls /sys/block/vda/mq | wc -l")?, "4");

        // A direct read goes to the queue of the CPU that asks: one reader on each.
        let data = DataOfNativeImage::on("/dev/vda")?;
        vm.run(&format!("cat >/run/reads <<'END'\n{}END", data.script))?;
        let sums = vm.run(
            "for cpu in 0 1 2 3; do
                 taskset -c $cpu sh /run/reads >/run/sums.$cpu &
             done
             wait
             cat /run/sums.*",
        )?;
        assert_eq!(sums, [data.output.as_str(); 4].join("\n"));
        let interrupts = vm.run("grep -E 'virtio[0-9]+-req' /proc/interrupts")?;
        assert_eq!(interrupts.lines().count(), 4, "{interrupts}");
        for queue in interrupts.lines() {
            let counts = queue.split_whitespace().skip(1).take(4);
            let total: u64 = counts.map(|count| count.parse().unwrap_or(0)).sum();
            assert!(total > 100, "a queue was not used:\n{interrupts}");
        }

        vm.shut_down()?;
        daemon.stop()
    })
}

#[test]
fn two_vms_share_one_image_through_two_daemons() -> Result<()> {
    Lab::run(|lab| {
        let image = native_image(lab)?;
        let first_daemon = lab.start_daemon("first", &[&image])?;
        let second_daemon = lab.start_daemon("second", &[&image])?;
        let mut first = lab.vm("first").disk(first_daemon.socket(0)?).start()?;
        let mut second = lab.vm("second").disk(second_daemon.socket(0)?).start()?;
        first.wait_until_booted()?;
        second.wait_until_booted()?;

        let data = DataOfNativeImage::on("/dev/vda")?;
        let deadline = lab.deadline(60);
        let first_sums = first.start(&data.script)?;
        let second_sums = second.start(&data.script)?;
        assert_eq!(first_sums.finish(deadline)?, data.output);
        assert_eq!(second_sums.finish(deadline)?, data.output);

        first.shut_down()?;
        second.shut_down()?;
        first_daemon.stop()?;
        second_daemon.stop()
    })
}

#[test]
fn a_damaged_block_is_an_io_error_in_the_guest_and_the_rest_reads_right() -> Result<()> {
    Lab::run(|lab| {
        let raw = &GuestAssets::get()?.root_disk;
        let image = lab.import_image("damaged", raw)?;
        let mut layer = fs::read(&image.layers[0])?;
        let middle = layer.len() / 2;
        layer[middle] ^= 1;
        fs::write(&image.layers[0], layer)?;
        lab.expect_in_logs("checksum"); // of the daemon, which also names file and offset
        lab.expect_in_logs("I/O error, dev vda"); // of the guest
        let daemon = lab.start_daemon("damaged", &[&image])?;
        let mut vm = lab.vm("damaged").disk(daemon.socket(0)?).boot()?;

        // dd leaves out a block that cannot be read.
        let dd = "dd if=/dev/vda bs=64k iflag=direct conv=noerror 2>/run/messages";
        let sum = vm.run(&format!("{dd} | sha256sum"))?;
        let errors = "dmesg | sed -n 's/.*I.O error, dev vda, sector \\([0-9]*\\) .*/\\1/p'";
        let sector: usize = vm.run(errors)?.parse().context("one bad sector")?;
        let mut bytes = fs::read(raw)?;
        bytes.drain(sector * 512..sector * 512 + (64 << 10));
        assert_eq!(sum, sha256_line(&bytes));

        vm.kill()?;
        daemon.stop()
    })
}
