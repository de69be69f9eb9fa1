//! Hundreds of devices of one daemon.

use anyhow::{Context, Result, ensure};
use qemu_tests::host_vm::HostVm;
use qemu_tests::lab::Lab;

use crate::scene::{boot, native_layers};
use crate::shell::{number, script, tell};

/// Memory that the daemon may use after a round beyond what it used after the round before.
const GROWTH_KIB_MAX: u64 = 4096;

/// What the daemon uses.
#[derive(Debug)]
struct Usage {
    files: u64,
    threads: u64,
    memory_kib: u64,
}

fn usage(host: &mut HostVm<'_>) -> Result<Usage> {
    let text = script(
        host,
        20,
        "cd /proc/$(pid); ls fd | wc -l; ls task | wc -l; awk '/VmRSS/ { print $2 }' status",
    )?;
    let mut numbers = text.lines().map(|line| line.trim().parse());
    let mut next = || {
        numbers
            .next()
            .context("three numbers")?
            .context(text.clone())
    };
    Ok(Usage {
        files: next()?,
        threads: next()?,
        memory_kib: next()?,
    })
}

/// Runs `step`, which may take 200 seconds, and tells how long it took.
fn timed(host: &mut HostVm<'_>, name: &str, step: &str) -> Result<()> {
    let took = script(
        host,
        200,
        &format!("before=$(date +%s%N)\n{step}\necho $((($(date +%s%N) - before) / 1000000))"),
    )?;
    tell(&format!("{name}: {took} ms"));
    Ok(())
}

/// glibc gives threads arenas of their own, and for some rounds every thread finds more of them grown by others; with
/// one arena, memory hardly grows after the third round.
const START: &str = "MALLOC_ARENA_MAX=1 start_daemon";

const READ: &str = "
    sums=$(xargs -P 16 -a /run/disks -I@ sh -c 'timeout 60 dd if=@ bs=64k count=4 iflag=direct status=none | md5sum' | sort | uniq -c)
    [ $(echo \"$sums\" | wc -l) = 1 ] || fail \"different bytes: $sums\"
";

const DETACH: &str = "
    xargs -P 16 -a /run/disks -I@ timeout 100 obd detach @ >/dev/null || fail detach
    no_devices || fail \"devices stay: $(ls /sys/class/uio | wc -l)\"
";

/// All devices come and go; what the daemon uses afterwards, which is no more files and threads than at the start. When
/// it restarts in between, they are read.
fn round(host: &mut HostVm<'_>, devices: u64, start: &Usage, restarts: bool) -> Result<Usage> {
    let attach = format!(
        "seq {devices} | xargs -P 16 -I@ timeout 100 obd attach --timeout 90 $scratch/device@.json >/run/disks || fail attach
        [ $(sort -u /run/disks | wc -l) = {devices} ] || fail \"$(wc -l </run/disks) disks\""
    );
    timed(host, "attach", &attach)?;
    if restarts {
        script(host, 20, "kill_daemon")?;
        timed(host, "taken up", START)?;
        let lost = format!("grep -q 'ready; {devices} devices' $log || fail lost");
        script(host, 20, &lost)?;
        timed(host, "read", READ)?;
    }
    tell(&format!("with all: {:?}", usage(host)?));
    timed(host, "detach", DETACH)?;
    // Idle threads end after some seconds.
    let few = format!(
        "few() {{ [ $(ls /proc/$(pid)/task | wc -l) -le {} ]; }}; within 30 few",
        start.threads
    );
    script(host, 40, &few)?;
    let after = usage(host)?;
    tell(&format!("after: {after:?}"));
    ensure!(
        after.files <= start.files,
        "files stay open: {start:?}, {after:?}"
    );
    Ok(after)
}

/// A host with the configs of as many images, and what its daemon uses without a device.
fn boot_serving<'lab>(lab: &'lab Lab, name: &str, devices: u64) -> Result<(HostVm<'lab>, Usage)> {
    let mut host = boot(lab.container_host(name))?;
    let images = format!(
        "for number in $(seq {devices}); do read_only device$number {}; done; {START}",
        native_layers(0).concat()
    );
    script(&mut host, 60, &images)?;
    let start = usage(&mut host)?;
    Ok((host, start))
}

#[test]
fn hundreds_of_devices_outlive_their_daemon_and_leave_nothing_open() -> Result<()> {
    let devices = number("OBD_DEVICES", 200);
    Lab::run(|lab| {
        let (mut host, start) = boot_serving(lab, "many", devices)?;
        round(&mut host, devices, &start, true)?;
        host.shut_down()
    })
}

#[test]
fn devices_that_come_and_go_leave_no_memory_behind() -> Result<()> {
    let devices = number("OBD_DEVICES", 200) / 4;
    Lab::run(|lab| {
        let (mut host, start) = boot_serving(lab, "rounds", devices)?;
        let mut memory = Vec::new();
        for _ in 0..5 {
            memory.push(round(&mut host, devices, &start, false)?.memory_kib);
        }
        ensure!(
            memory[4] <= memory[3] + GROWTH_KIB_MAX,
            "memory stays: {memory:?} KiB"
        );
        host.shut_down()
    })
}
