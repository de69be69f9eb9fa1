//! A host whose process 1 is systemd, for what units do.

use anyhow::Result;
use qemu_tests::lab::Lab;

#[test]
fn a_host_boots_with_systemd_and_restarts_a_unit_that_was_killed() -> Result<()> {
    Lab::run(|lab| {
        let mut host = lab.container_host("systemd").systemd().boot()?;
        assert_eq!(host.run("cat /proc/1/comm")?, "systemd");
        host.run(
            "systemd-run --unit=probe -p Restart=always -p RestartSec=0 sleep infinity
             first=$(systemctl show -P MainPID probe)
             kill -9 $first
             for try in $(seq 300); do
                 second=$(systemctl show -P MainPID probe)
                 [ $second != 0 ] && [ $second != $first ] && exit 0
                 sleep 0.1
             done
             exit 1",
        )?;
        host.shut_down()
    })
}
