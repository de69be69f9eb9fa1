//! Our daemon and tcmu-runner on one host: ours answers only its own devices.
//!
//! tcmu-runner answers every event, and refuses devices of other handlers; the kernel takes the first answer, unless
//! it was told not to wait for any.

use anyhow::Result;
use qemu_tests::host_vm::SCRATCH;
use qemu_tests::lab::Lab;

use crate::scene::boot;
use crate::shell::script;

#[test]
fn a_restart_of_one_daemon_does_not_disturb_the_devices_of_the_other() -> Result<()> {
    Lab::run(|lab| {
        let mut host = boot(lab.container_host("both"))?;
        script(
            &mut host,
            60,
            "start_daemon; writable ours -s; truncate -s 64M $scratch/theirs.raw
            obd attach $scratch/ours.json >/run/ours || fail attach
            load ours $(cat /run/ours)",
        )?;
        host.start_tcmu_runner()?;
        // obd does not ask the kernel to pass on an answer, which might be tcmu-runner's.
        script(
            &mut host,
            60,
            "for turn in 1 2 3 4 5; do
                writable beside$turn -s
                obd attach $scratch/beside$turn.json >/run/beside || fail attach
                mkfs.ext4 -q $(cat /run/beside) || fail mkfs
                obd detach $(cat /run/beside) || fail detach
            done",
        )?;
        // Ours must not refuse what is not its own.
        for number in 1..=5 {
            script(
                &mut host,
                20,
                &format!("truncate -s 1M $scratch/more{number}.raw"),
            )?;
            let config = format!("qcow/{SCRATCH}/more{number}.raw");
            host.attach_target(number, &config, &["dev_size=1048576"])?;
        }
        let config = format!("qcow/{SCRATCH}/theirs.raw");
        let theirs = host.attach_target(0, &config, &["dev_size=67108864"])?;
        script(
            &mut host,
            120,
            &format!(
                "load theirs {theirs}
                [ $(ls -l /proc/$(pid)/fd | grep -c /dev/uio) = 1 ] || fail \"ours: $(obd ls)\"
                for turn in 1 2 3; do
                    kill_daemon
                    further theirs
                    start_daemon
                done
                [ $(grep -c 'ready; 1 devices' $log) = 3 ] || fail 'a device was lost'"
            ),
        )?;
        script(
            &mut host,
            60,
            "end_loads theirs ours; rm /run/load.ours; load ours $(cat /run/ours)",
        )?;
        for number in 0..=5 {
            host.detach_target(number)?;
        }
        script(
            &mut host,
            100,
            "runner=$(cat /run/tcmu-runner.pid); kill -9 $runner; within 10 gone $runner
            further ours
            end_loads ours
            timeout 60 obd detach $(cat /run/ours) || fail detach
            no_devices || fail 'devices stay'",
        )?;
        host.shut_down()
    })
}
