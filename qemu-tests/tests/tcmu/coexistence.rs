//! Our daemon and tcmu-runner on one host: each answers only its own devices.

use anyhow::Result;
use qemu_tests::host_vm::{DATA, SCRATCH};
use qemu_tests::lab::Lab;

use crate::shell::{boot, script};

#[test]
fn a_restart_of_one_daemon_does_not_disturb_the_devices_of_the_other() -> Result<()> {
    Lab::run(|lab| {
        let mut host = boot(lab.container_host("both"))?;
        host.start_tcmu_runner()?;
        script(
            &mut host,
            60,
            "start_daemon; writable ours -s; truncate -s 64M $scratch/theirs.raw",
        )?;
        let theirs = host.attach_target(
            0,
            &format!("qcow/{SCRATCH}/theirs.raw"),
            &["dev_size=67108864"],
        )?;
        script(
            &mut host,
            60,
            &format!(
                "obd attach $scratch/ours.json >/run/ours || fail attach; load ours $(cat /run/ours); load theirs {theirs}"
            ),
        )?;
        // Both make devices at the same time.
        script(
            &mut host,
            90,
            &format!(
                "for number in 1 2 3 4 5 6; do
                    read_only more$number {DATA}/layer.obd; truncate -s 1M $scratch/more$number.raw
                    timeout 60 obd attach $scratch/more$number.json >/run/more$number & jobs=\"$jobs $!\"
                    (
                        mkdir -p $core/user_9/more$number
                        printf 'dev_config=qcow/%s/more%s.raw,dev_size=1048576' $scratch $number >$core/user_9/more$number/control
                        for try in $(seq 50); do echo 1 2>/dev/null >$core/user_9/more$number/enable && exit; sleep 0.1; done; exit 1
                    ) & jobs=\"$jobs $!\"
                done
                for job in $jobs; do wait $job || fail 'one was not made'; done
                runner=$(cat /run/tcmu-runner.pid)
                theirs() {{ ls -l /proc/$runner/fd | grep -c /dev/uio; }}
                [ $(ls -l /proc/$(pid)/fd | grep -c /dev/uio) = 7 ] || fail \"ours: $(obd ls)\"
                [ $(theirs) = 7 ] || fail \"theirs: $(theirs)\"
                for number in 1 2 3 4 5 6; do
                    timeout 60 obd detach $(cat /run/more$number) && rmdir $core/user_9/more$number || fail \"removal $number\"
                done"
            ),
        )?;
        script(
            &mut host,
            120,
            "for turn in 1 2 3; do
                kill_daemon; rounds=$(wc -l </run/rounds.theirs)
                further() { [ $(wc -l </run/rounds.theirs) -gt $rounds ]; }
                within 60 further
                start_daemon
            done
            end_loads theirs
            load ours $(cat /run/ours)",
        )?;
        script(
            &mut host,
            60,
            "runner=$(cat /run/tcmu-runner.pid); kill -9 $runner; within 10 gone $runner
            rounds=$(wc -l </run/rounds.ours)
            further() { [ $(wc -l </run/rounds.ours) -gt $rounds ]; }
            within 60 further",
        )?;
        host.start_tcmu_runner()?;
        script(
            &mut host,
            90,
            "end_loads ours; timeout 60 obd detach $(cat /run/ours); quiet_log",
        )?;
        host.detach_target(0)?;
        host.shut_down()
    })
}
