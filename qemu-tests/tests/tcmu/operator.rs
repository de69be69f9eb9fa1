//! `obd attach`, `ls`, `doctor`, `detach` as an operator uses them, on hosts in good and in bad health.

use std::time::Instant;

use anyhow::Result;
use qemu_tests::host_vm::{HostVm, PROGRAMS, SCRATCH};
use qemu_tests::lab::Lab;

use crate::scene;

/// Seconds that `obd attach` is given, and is given up after.
const TIMEOUT_SECONDS: u64 = 3;

/// Runs `obd`, which must end with `status`; returns what it said on both outputs.
fn obd(host: &mut HostVm<'_>, status: i32, arguments: &str) -> Result<String> {
    host.run(&format!(
        "ulimit -n 1048576; cd {SCRATCH}; {PROGRAMS}/obd {arguments} 2>&1; status=$?; \
         [ $status = {status} ] || {{ echo \"status $status\"; exit 1; }}"
    ))
}

fn expect(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[test]
fn a_good_host_is_told_to_be_good_and_a_device_goes_through_its_life() -> Result<()> {
    Lab::run(|lab| {
        lab.expect_in_logs("no-such-layer\" does not exist");
        let mut host = scene::boot_serving(lab.container_host("operator"))?;
        let well = obd(&mut host, 0, "doctor")?;
        expect(
            &well,
            &["daemon: overlaybd-tcmu serves", "ok   netlink: open"],
        );
        assert!(!well.contains("BAD"), "{well}");
        assert_eq!(obd(&mut host, 0, "ls")?, "");

        scene::write_config(&mut host, "native", &scene::native_layers(2), None)?;
        let disk = obd(&mut host, 0, "attach --name=web --dev-id=7 native.json")?;
        let again = obd(&mut host, 1, "attach --name=web native.json")?;
        expect(&again, &["web is attached already"]);
        host.run(&format!(
            "mkdir /run/image && mount -o ro {disk} /run/image"
        ))?;
        let line = [
            "web",
            "/run/image",
            "overlaybd-tcmu",
            "ro",
            "native.json;7",
            &disk,
        ];
        expect(&obd(&mut host, 0, "ls")?, &line);
        let refused = obd(&mut host, 1, &format!("detach {disk}"))?;
        expect(&refused, &["mounted at /run/image"]);
        host.run("ls /run/image/app && umount /run/image")?;
        let gone = obd(&mut host, 0, &format!("detach {disk}"))?;
        assert_eq!(gone, "web: detached");
        expect(&obd(&mut host, 1, "detach web")?, &["web"]);

        check_refusals(&mut host)?;
        check_hanging_daemon(&mut host)?;
        host.shut_down()
    })
}

/// What cannot be opened leaves nothing behind.
fn check_refusals(host: &mut HostVm<'_>) -> Result<()> {
    let missing = [format!("{SCRATCH}/no-such-layer")];
    scene::write_config(host, "bad", &missing, None)?;
    let refused = obd(host, 1, "attach bad.json")?;
    expect(&refused, &["no-such-layer"]);
    assert_eq!(obd(host, 0, "ls")?, "");
    host.run("[ -z \"$(ls /sys/class/uio)\" ]")?;
    expect(&obd(host, 1, "attach none.json")?, &["none.json"]);
    Ok(())
}

/// A daemon that does not answer: attach ends in time all the same, leaves nothing behind, and works when the daemon goes on.
fn check_hanging_daemon(host: &mut HostVm<'_>) -> Result<()> {
    host.run("kill -STOP $(cat /run/overlaybd-tcmu.pid)")?;
    let begin = Instant::now();
    let arguments = format!("attach --timeout {TIMEOUT_SECONDS} --name=hung native.json");
    let said = obd(host, 1, &arguments)?;
    let seconds = begin.elapsed().as_secs();
    assert!((TIMEOUT_SECONDS..60).contains(&seconds), "{seconds}");
    expect(&said, &["no answer", "within --timeout"]);
    assert_eq!(obd(host, 0, "ls")?, "", "nothing stays");
    host.run("kill -CONT $(cat /run/overlaybd-tcmu.pid)")?;
    let disk = obd(host, 0, "attach --name=hung native.json")?;
    expect(
        &obd(host, 0, &format!("detach {}", disk.trim()))?,
        &["hung: detached"],
    );
    expect(&obd(host, 0, "doctor")?, &["ok   daemon"]);
    Ok(())
}

#[test]
fn the_doctor_says_what_a_bare_host_lacks() -> Result<()> {
    Lab::run(|lab| {
        let mut host = scene::boot(lab.container_host("bare"))?;
        scene::write_config(&mut host, "native", &scene::native_layers(2), None)?;
        let no_daemon = obd(&mut host, 1, "doctor")?;
        expect(
            &no_daemon,
            &["BAD  daemon: overlaybd-tcmu does not run: systemctl start"],
        );
        assert_eq!(no_daemon.matches("BAD").count(), 1, "{no_daemon}");
        let refused = obd(&mut host, 1, "attach native.json")?;
        expect(
            &refused,
            &["no overlaybd-tcmu serves", "systemctl start overlaybd-tcmu"],
        );

        host.run("echo 1 >/sys/module/target_core_user/parameters/block_netlink")?;
        expect(&obd(&mut host, 1, "doctor")?, &["BAD  netlink: blocked"]);
        let freed = obd(&mut host, 1, "doctor --unstick")?;
        expect(&freed, &["netlink reset", "ok   netlink: open"]);

        host.run("modprobe -r tcm_loop target_core_user")?;
        let no_modules = obd(&mut host, 1, "doctor")?;
        let lacks = [
            "BAD  target_core_user: not loaded: modprobe target_core_user",
            "BAD  tcm_loop: not loaded: modprobe tcm_loop",
        ];
        expect(&no_modules, &lacks);
        assert!(!no_modules.contains("netlink"), "{no_modules}");
        host.shut_down()
    })
}
