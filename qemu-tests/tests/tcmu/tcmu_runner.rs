//! Debian's `tcmu-runner`: it shows that the host itself works, whatever our daemon does.
//!
//! Debian ships its handler `qcow`, which serves a file of another format as the raw bytes it is, and not its handler
//! `file`, which does the same: one `preadv` or `pwritev` for one command.

use anyhow::Result;
use qemu_tests::host_vm::SCRATCH;
use qemu_tests::lab::Lab;

const BYTES: u64 = 64 << 20;

#[test]
fn a_disk_of_tcmu_runner_has_the_bytes_of_its_file() -> Result<()> {
    Lab::run(|lab| {
        let mut host = lab.container_host("host").boot()?;
        host.start_tcmu_runner()?;
        host.run(&format!("head -c {BYTES} /dev/urandom >{SCRATCH}/disk.raw"))?;
        let size = format!("dev_size={BYTES}");
        let disk = host.attach_target(0, &format!("qcow/{SCRATCH}/disk.raw"), &[&size])?;
        let hashes = host.run(&format!(
            "sha256sum <{SCRATCH}/disk.raw && sha256sum <{disk}"
        ))?;
        let mut lines = hashes.lines();
        assert_eq!(lines.next(), lines.next());
        host.detach_target(0)?;
        host.shut_down()
    })
}
