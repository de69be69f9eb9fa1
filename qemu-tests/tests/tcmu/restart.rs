//! The daemon ends, in good order or not, while its disks are written and read back.

use anyhow::Result;
use qemu_tests::host_vm::DATA;
use qemu_tests::lab::Lab;
use qemu_tests::programs::repository;

use crate::scene::boot;
use crate::shell::{number, script, tell};

const ATTACH_FOUR: &str = "
    names='append1 append2 sparse1 sparse2'
    for name in append1 append2; do writable $name; done
    for name in sparse1 sparse2; do writable $name -s; done
    for name in $names; do
        disk=$(timeout 60 obd attach $scratch/$name.json) || fail \"attach $name: $disk\"
        load $name $disk
    done
";

const DETACH_FOUR: &str = "
    names='append1 append2 sparse1 sparse2'
    end_loads $names
    for name in $names; do
        timeout 60 obd detach $scratch/$name.json || fail \"detach $name\"
        echo \"$name: $(wc -l </run/rounds.$name) rounds of the load\"
    done
    no_devices || fail 'devices stay'
";

#[test]
fn a_daemon_that_is_killed_again_and_again_costs_no_byte() -> Result<()> {
    let kills = number("OBD_KILLS", 8);
    Lab::run(|lab| {
        let mut host = boot(lab.container_host("killed"))?;
        script(&mut host, 60, "start_daemon")?;
        script(&mut host, 60, ATTACH_FOUR)?;
        let began = std::time::Instant::now();
        script(
            &mut host,
            250,
            &format!(
                "for turn in $(seq {kills}); do
                    sleep 0.$((RANDOM % 9))
                    kill_daemon && start_daemon
                done
                [ $(grep -c 'ready; 4 devices' $log) = {kills} ] || fail 'a device was lost'"
            ),
        )?;
        let seconds = began.elapsed().as_secs();
        let rounds = script(&mut host, 120, DETACH_FOUR)?;
        tell(&format!("{kills} kills in {seconds} s; {rounds}"));
        host.shut_down()
    })
}

#[test]
fn systemd_restarts_the_daemon_and_no_byte_is_lost() -> Result<()> {
    Lab::run(|lab| {
        // Each flush of a detach has udev read the disk again, which may be gone by then.
        lab.expect_in_logs("Read Capacity(");
        let unit = repository().join("scripts/packaging/systemd/overlaybd-tcmu.service");
        let mut host = boot(lab.container_host("unit").systemd().file(&unit, "unit"))?;
        script(
            &mut host,
            120,
            &format!(
                "cp {DATA}/unit /etc/systemd/system/overlaybd-tcmu.service
                mkdir /etc/systemd/system/overlaybd-tcmu.service.d
                printf '[Service]\\nExecStart=\\nExecStart=%s %s\\nStandardError=append:%s\\n' \
                    $bin/overlaybd-tcmu $scratch/overlaybd.json $log \
                    >/etc/systemd/system/overlaybd-tcmu.service.d/paths.conf
                systemctl daemon-reload && systemctl start overlaybd-tcmu || fail 'no start'
                # The unit is of Type=notify: started means that READY came.
                [ $(starts) = 1 ] || fail 'started before it was ready'"
            ),
        )?;
        script(&mut host, 60, ATTACH_FOUR)?;
        script(
            &mut host,
            200,
            "names='append1 append2 sparse1 sparse2'
            for turn in 1 2 3; do
                before=$(starts)
                kill -9 $(systemctl show -P MainPID overlaybd-tcmu)
                within 60 started_since $before
                further $names
            done
            [ $(systemctl show -P NRestarts overlaybd-tcmu) = 3 ] || fail 'not restarted by systemd'
            for turn in 1 2; do systemctl restart overlaybd-tcmu || fail restart; further $names; done
            systemctl stop overlaybd-tcmu || fail stop
            systemctl is-failed overlaybd-tcmu && fail 'stop failed'
            # Not each of them: a command of udev that times out has the kernel stop its disk.
            any_waits() { local disk; for disk in /sys/block/sd*; do in_flight ${disk##*/} && return; done; return 1; }
            within 20 any_waits
            systemctl start overlaybd-tcmu || fail start
            [ $(grep -c 'ready; 4 devices' $log) = 6 ] || fail 'a device was lost'",
        )?;
        tell(&script(&mut host, 120, DETACH_FOUR)?);
        // Into the lab's verdict.
        script(&mut host, 20, "cat $log >/dev/ttyS0")?;
        host.shut_down()
    })
}
