//! Hundreds of devices of one daemon.

use anyhow::{Context, Result, ensure};
use qemu_tests::host_vm::HostVm;
use qemu_tests::lab::Lab;

use crate::scene::boot;
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
/// one arena, what the daemon keeps shows after two rounds.
const START: &str = "MALLOC_ARENA_MAX=1 start_daemon";

const READ: &str = "
    sums=$(xargs -P 16 -a /run/disks -I@ sh -c 'timeout 60 dd if=@ bs=64k count=4 iflag=direct status=none | md5sum' | sort | uniq -c)
    [ $(echo \"$sums\" | wc -l) = 1 ] || fail \"different bytes: $sums\"
";

const DETACH: &str = "
    xargs -P 16 -a /run/disks -I@ timeout 100 obd detach @ >/dev/null || fail detach
    no_devices || fail \"devices stay: $(ls /sys/class/uio | wc -l)\"
";

/// All devices come and go; what the daemon uses afterwards. When it restarts in between, they are read before and after.
fn round(host: &mut HostVm<'_>, devices: u64, restarts: bool) -> Result<Usage> {
    let attach = format!(
        "seq {devices} | xargs -P 16 -I@ timeout 100 obd attach --timeout 90 $scratch/device@.json >/run/disks || fail attach
        [ $(sort -u /run/disks | wc -l) = {devices} ] || fail \"$(wc -l </run/disks) disks\""
    );
    timed(host, "attach", &attach)?;
    if restarts {
        timed(host, "read", READ)?;
        script(host, 20, "kill_daemon")?;
        timed(host, "taken up", START)?;
        let lost = format!("grep -q 'ready; {devices} devices' $log || fail lost");
        script(host, 20, &lost)?;
        timed(host, "read", READ)?;
    }
    tell(&format!("with all: {:?}", usage(host)?));
    timed(host, "detach", DETACH)?;
    // Idle threads end after some seconds.
    let few = "few() { [ $(ls /proc/$(pid)/task | wc -l) -le 4 ]; }; within 15 few";
    script(host, 30, few)?;
    let after = usage(host)?;
    tell(&format!("after: {after:?}"));
    Ok(after)
}

#[test]
fn hundreds_of_devices_come_and_go_and_nothing_stays() -> Result<()> {
    let devices = number("OBD_DEVICES", 200);
    Lab::run(|lab| {
        let mut host = boot(lab.container_host("many"))?;
        let images = format!(
            "for number in $(seq {devices}); do read_only device$number {}; done; {START}",
            crate::scene::native_layers(0).concat()
        );
        script(&mut host, 60, &images)?;
        let start = usage(&mut host)?;
        let mut memory = Vec::new();
        // The daemon that takes the devices up in the first round serves to the end.
        for restarts in [true, false, false] {
            let after = round(&mut host, devices, restarts)?;
            ensure!(
                after.files <= start.files && after.threads <= start.threads,
                "files or threads stay: {start:?}, {after:?}"
            );
            memory.push(after.memory_kib);
        }
        ensure!(
            memory[2] <= memory[1] + GROWTH_KIB_MAX,
            "memory stays: {memory:?} KiB"
        );
        host.shut_down()
    })
}
