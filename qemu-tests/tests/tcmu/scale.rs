//! Hundreds of devices of one daemon.

use anyhow::{Result, ensure};
use qemu_tests::host_vm::{DATA, HostVm};
use qemu_tests::lab::Lab;

use crate::shell::{boot, number, script, tell};

/// Memory that the daemon may keep after the second round, beyond what it kept after the first.
const GROWTH_KIB_MAX: u64 = 4096;

/// What the daemon uses: files, threads, KiB of memory.
type Usage = [u64; 3];

fn usage(host: &mut HostVm<'_>) -> Result<Usage> {
    let text = script(
        host,
        20,
        "ls /proc/$(pid)/fd | wc -l; ls /proc/$(pid)/task | wc -l; awk '/VmRSS/ { print $2 }' /proc/$(pid)/status",
    )?;
    let mut numbers = text.lines().map(|line| line.trim().parse());
    let mut next = || numbers.next().map_or(Ok(0), |number| number);
    Ok([next()?, next()?, next()?])
}

fn attach_all(host: &mut HostVm<'_>, devices: u64) -> Result<String> {
    script(
        host,
        200,
        &format!(
            "before=$(date +%s)
            seq {devices} | xargs -P 16 -I@ timeout 100 obd attach --timeout 90 $scratch/device@.json >/run/disks || fail attach
            [ $(sort -u /run/disks | wc -l) = {devices} ] || fail \"$(wc -l </run/disks) disks\"
            echo \"attach: $(($(date +%s) - before)) s\""
        ),
    )
}

fn read_all(host: &mut HostVm<'_>) -> Result<String> {
    script(
        host,
        200,
        "before=$(date +%s)
        sums=$(xargs -P 16 -a /run/disks -I@ sh -c 'timeout 60 dd if=@ bs=64k count=4 iflag=direct status=none | md5sum' | sort | uniq -c)
        [ $(echo \"$sums\" | wc -l) = 1 ] || fail \"different bytes: $sums\"
        echo \"read: $(($(date +%s) - before)) s\"",
    )
}

fn detach_all(host: &mut HostVm<'_>) -> Result<String> {
    script(
        host,
        200,
        "before=$(date +%s)
        xargs -P 16 -a /run/disks -I@ timeout 100 obd detach @ || fail detach
        no_devices || fail \"devices stay: $(ls /sys/class/uio | wc -l)\"
        echo \"detach: $(($(date +%s) - before)) s\"",
    )
}

#[test]
fn hundreds_of_devices_come_and_go_and_nothing_stays() -> Result<()> {
    let devices = number("OBD_DEVICES", 200);
    Lab::run(|lab| {
        let mut host = boot(lab.container_host("many"))?;
        script(
            &mut host,
            60,
            &format!(
                "for number in $(seq {devices}); do read_only device$number {DATA}/layer.obd; done; start_daemon"
            ),
        )?;
        let mut usages = vec![usage(&mut host)?];
        for round in 1..=2 {
            let mut told = vec![attach_all(&mut host, devices)?, read_all(&mut host)?];
            let with_all = usage(&mut host)?;
            if round == 2 {
                let taken_up = script(
                    &mut host,
                    100,
                    "kill_daemon; before=$(date +%s%N); start_daemon; echo \"taken up: $((($(date +%s%N) - before) / 1000000)) ms\"",
                )?;
                script(
                    &mut host,
                    10,
                    &format!("grep -q 'ready; {devices} devices' $log || fail lost"),
                )?;
                told.extend([taken_up, read_all(&mut host)?]);
            }
            told.push(detach_all(&mut host)?);
            // Idle threads end after some seconds.
            script(
                &mut host,
                30,
                "few() { [ $(ls /proc/$(pid)/task | wc -l) -le 4 ]; }; within 15 few",
            )?;
            usages.push(usage(&mut host)?);
            tell(&format!(
                "round {round}: {told:?}; files, threads, KiB: all {with_all:?}, after {:?}",
                usages.last()
            ));
            if round == 1 {
                told.clear();
                told.extend([attach_all(&mut host, devices)?, detach_all(&mut host)?]);
                script(
                    &mut host,
                    30,
                    "few() { [ $(ls /proc/$(pid)/task | wc -l) -le 4 ]; }; within 15 few",
                )?;
                usages.push(usage(&mut host)?);
                tell(&format!("again: {told:?}; after {:?}", usages.last()));
            }
        }
        let [start, first, second, _] = usages.as_slice() else {
            anyhow::bail!("four usages");
        };
        for after in [first, second] {
            ensure!(
                after[0] <= start[0],
                "files stay open: {start:?}, {after:?}"
            );
        }
        ensure!(
            second[2] <= first[2] + GROWTH_KIB_MAX,
            "memory stays: {usages:?}"
        );
        script(&mut host, 20, "quiet_log")?;
        host.shut_down()
    })
}
