//! Debian's `tcmu-runner`: it shows that the host itself works, whatever our daemon does.
//!
//! Debian ships its handler `qcow`, which serves a file of another format as the raw bytes it is, and not its handler
//! `file`, which does the same: one `preadv` or `pwritev` for one command.

use anyhow::Result;
use qemu_tests::host_vm::{HostVm, SCRATCH};
use qemu_tests::lab::Lab;

use crate::targets;

const BYTES: u64 = 64 << 20;

/// Starts it and waits until it has asked the kernel for events.
pub(crate) fn start(host: &mut HostVm<'_>) -> Result<()> {
    host.run(
        "mkdir -p /run/dbus /var/log /etc/tcmu
         tcmu-runner --debug >/run/tcmu-runner.out 2>&1 &
         for try in $(seq 300); do
             grep -q 'handlers found' /run/tcmu-runner.out /var/log/tcmu-runner.log 2>/dev/null && exit 0
             sleep 0.1
         done
         cat /run/tcmu-runner.out /var/log/tcmu-runner.log
         exit 1",
    )
    .map(drop)
}

#[test]
fn a_disk_of_tcmu_runner_has_the_bytes_of_its_file() -> Result<()> {
    Lab::run(|lab| {
        let mut host = lab.container_host("host").boot()?;
        start(&mut host)?;
        host.run(&format!("head -c {BYTES} /dev/urandom >{SCRATCH}/disk.raw"))?;
        let size = format!("dev_size={BYTES}");
        let disk = targets::attach(&mut host, 0, &format!("qcow/{SCRATCH}/disk.raw"), &[&size])?;
        let hashes = host.run(&format!(
            "sha256sum <{SCRATCH}/disk.raw && sha256sum <{disk}"
        ))?;
        let mut lines = hashes.lines();
        assert_eq!(lines.next(), lines.next());
        targets::detach(&mut host, 0)?;
        host.shut_down()
    })
}
