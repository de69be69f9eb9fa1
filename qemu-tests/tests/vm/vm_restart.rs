//! The daemon and its socket stay while VMs come and go.

use anyhow::Result;
use qemu_tests::lab::Lab;

use crate::expected::{DataOfNativeImage, native_image};

/// Endless direct reads of the whole disk; "reading" is printed after each pass.
const ENDLESS_READS: &str = "
    while dd if=/dev/vda of=/dev/null bs=128k count=256 iflag=direct status=none; do
        echo reading
    done";

#[test]
fn a_vm_that_reboots_and_is_reset_under_reads_finds_its_disk_again() -> Result<()> {
    Lab::run(|lab| {
        let image = native_image(lab)?;
        let daemon = lab.start_daemon("reboot", &[&image])?;
        let mut vm = lab.vm("reboot").disk(daemon.socket(0)?).boot()?;

        let data = DataOfNativeImage::on("/dev/vda")?;
        assert_eq!(vm.run(&data.script)?, data.output);
        vm.reboot()?;
        assert_eq!(vm.run(&data.script)?, data.output);
        vm.start(ENDLESS_READS)?.next_line(lab.deadline(60))?;
        vm.reset()?;
        assert_eq!(vm.run(&data.script)?, data.output);

        vm.shut_down()?;
        daemon.stop()
    })
}

#[test]
fn a_vm_killed_under_reads_is_followed_by_another_on_the_same_daemon() -> Result<()> {
    Lab::run(|lab| {
        let image = native_image(lab)?;
        let daemon = lab.start_daemon("next", &[&image])?;
        for round in ["first", "second"] {
            let mut vm = lab.vm(round).disk(daemon.socket(0)?).boot()?;
            vm.start(ENDLESS_READS)?.next_line(lab.deadline(60))?;
            vm.kill()?;
        }
        let mut vm = lab.vm("third").disk(daemon.socket(0)?).boot()?;
        let data = DataOfNativeImage::on("/dev/vda")?;
        assert_eq!(vm.run(&data.script)?, data.output);

        vm.shut_down()?;
        daemon.stop()
    })
}
