//! The host's file system is full.

use std::fs;
use std::io::Write;

use anyhow::{Result, ensure};
use qemu_tests::image::UpperKind;
use qemu_tests::lab::Lab;
use qemu_tests::process::is_root;

#[test]
fn a_full_host_file_system_fails_writes_until_there_is_space_and_loses_nothing() -> Result<()> {
    if !is_root() {
        // Past the test runner's capture: a check that did not run must be seen.
        let not_run = "NOT RUN: a full host file system (mounting one needs root)";
        return Ok(writeln!(std::io::stderr(), "{not_run}")?);
    }
    Lab::run(|lab| {
        lab.expect_in_logs("No space left on device"); // of the daemon
        lab.expect_in_logs("I/O error, dev vd"); // of the guest
        let host = lab.small_file_system("full", 40)?;
        let ballast = host.dir().join("ballast");
        fs::write(&ballast, vec![1; 20 << 20])?;
        let append = lab.empty_disk(host.dir(), "append", UpperKind::AppendOnly, 1)?;
        let sparse = lab.empty_disk(host.dir(), "sparse", UpperKind::Sparse, 1)?;
        let mut daemon = lab.start_daemon("full", &[&append, &sparse])?;
        let vm = lab.vm("full").disk(daemon.socket(0)?);
        let mut vm = vm.disk(daemon.socket(1)?).boot()?;

        // 6 MiB each fit, and 16 more on one of them.
        vm.run(
            "head -c 6291456 /dev/urandom >/run/first && head -c 16777216 /dev/urandom >/run/more",
        )?;
        let write_first = "dd if=/run/first of=/dev/$disk bs=64k oflag=direct status=none";
        let write_more = "dd if=/run/more of=/dev/$disk bs=64k seek=96 oflag=direct status=none";
        let on_both = |script: &str| format!("for disk in vda vdb; do {script} || exit 1; done");
        vm.run(&on_both(write_first))?;
        let errors = vm.run(&on_both(&format!("! {write_more} 2>&1")))?;
        ensure!(
            errors.matches("Input/output error").count() == 2,
            "{errors}"
        );
        let read_first =
            "dd if=/dev/$disk bs=64k count=96 iflag=direct status=none | cmp - /run/first";
        vm.run(&on_both(read_first))?;

        fs::remove_file(&ballast)?;
        let read_more =
            "dd if=/dev/$disk bs=64k skip=96 count=256 iflag=direct status=none | cmp - /run/more";
        vm.run(&format!("disk=vda; {write_more} && {read_more}"))?;
        vm.run(&on_both(read_first))?;
        daemon.kill()?;
        daemon.start_again()?;
        vm.run(&on_both(read_first))?;
        vm.run(&format!("disk=vda; {read_more}"))?;

        vm.kill()?;
        daemon.stop()
    })
}
