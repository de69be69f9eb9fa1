//! Who serves a device, what is freed and given back, and what the doctor says of it.

use std::fs;
use std::os::unix::fs::symlink;

use super::test_host::Scene;
use super::*;
use crate::tcmu_names::OBD_ADAPTER;

impl Scene {
    /// The daemon's process is seen in /proc.
    fn show_daemon(&self) {
        self.put("proc/4711/comm", "overlaybd-tcmu\n");
        let files = self.dir.path().join("proc/4711/fd");
        fs::create_dir_all(&files).unwrap();
        let lock = self.dir.path().join("run/overlaybd-tcmu.lock");
        symlink(lock, files.join("1")).unwrap();
    }

    /// The device `disk` is uio0, which process `pid` has open.
    fn enable(&self, pid: Option<u32>) {
        let name = "tcm-user/999999998/disk/overlaybd//c;7\n";
        self.put("sys/class/uio/uio0/name", name);
        self.put("dev/uio0", "");
        if let Some(pid) = pid {
            let files = self.dir.path().join(format!("proc/{pid}/fd"));
            fs::create_dir_all(&files).unwrap();
            symlink("/dev/uio0", files.join("3")).unwrap();
        }
    }

    /// The steps of unsticking that touch a device.
    fn unstick(&self) -> (Vec<String>, String) {
        self.take_steps();
        let told = unstick(&self.host).join("\n");
        let mut steps = self.take_steps();
        steps.retain(|step| !step.contains("netlink"));
        (steps, told)
    }
}

/// What fails the commands of `disk`.
fn freeing() -> [String; 3] {
    let action = format!("sys/kernel/config/target/core/{OBD_ADAPTER}/disk/action");
    [
        "write offline to sys/block/sdq/device/state".to_owned(),
        format!("write 1 to {action}/block_dev"),
        format!("write 2 to {action}/reset_ring"),
    ]
}

#[test]
fn only_devices_without_owner_and_of_our_handler_are_unstuck() {
    let mut scene = Scene::new();
    scene.attach().unwrap();
    scene.put("sys/class/uio/uio1/name", "tcm-user/1/other/file//x\n");
    scene.put("dev/uio1", "");
    scene.put(
        "sys/kernel/config/target/core/user_1/other/attrib/dev_config",
        "file//x\n",
    );
    scene.enable(Some(12));
    drop(scene.daemon.take());
    assert_eq!(scene.unstick().0, [""; 0]);
    fs::remove_file(scene.dir.path().join("proc/12/fd/3")).unwrap();
    assert_eq!(scene.unstick().0, freeing());
    assert!(disk::is_offline(&scene.host, "sdq"));
}

#[test]
fn beside_a_daemon_only_what_it_has_given_up_is_unstuck() {
    let scene = Scene::new();
    scene.attach().unwrap();
    scene.show_daemon();
    scene.enable(None);
    assert_eq!(scene.unstick().0, [""; 0]);
    fs::remove_dir_all(scene.dir.path().join("run/overlaybd-tcmu")).unwrap();
    assert_eq!(scene.unstick().0, [""; 0]);
    scene.outcome("failed: gone");
    assert_eq!(scene.unstick().0, freeing());
    scene.enable(Some(4711));
    assert_eq!(scene.unstick().0, [""; 0]);
}

#[test]
fn a_daemon_that_is_not_in_this_proc_has_its_devices_left_alone() {
    let scene = Scene::new();
    scene.attach().unwrap();
    scene.enable(None);
    scene.outcome("failed: gone");
    let owner = |scene: &Scene| owned(&scene.host)[0].1.clone();
    // One of that number, but another.
    scene.put("proc/4711/comm", "cron\n");
    fs::create_dir_all(scene.dir.path().join("proc/4711/fd")).unwrap();
    assert_eq!(owner(&scene), Owner::Unknown);
    let (steps, told) = scene.unstick();
    assert_eq!(steps, [""; 0]);
    assert!(told.contains("nothing is touched"), "{told}");
    scene.show_daemon();
    assert_eq!(owner(&scene), Owner::Nobody);
}

#[test]
fn a_freed_disk_that_is_served_again_is_given_back() {
    let scene = Scene::new();
    scene.attach().unwrap();
    scene.show_daemon();
    scene.enable(Some(4711));
    scene.put("sys/block/sdq/device/state", "offline\n");
    let checks = examine(&scene.host);
    let check = checks
        .iter()
        .find(|check| check.name.starts_with("device"))
        .unwrap();
    assert!(!check.is_good && check.detail.contains("offline"));
    // The daemon is still opening the image.
    scene.outcome("");
    assert_eq!(scene.unstick().0, [""; 0]);
    scene.outcome("success");
    let (steps, told) = scene.unstick();
    assert_eq!(steps, ["write running to sys/block/sdq/device/state"]);
    assert!(told.contains("sdq set running"), "{told}");
    assert_eq!(scene.unstick().0, [""; 0]);
}

#[test]
fn the_doctor_says_what_is_missing_and_what_is_there() {
    let mut scene = Scene::new();
    let is_good = |scene: &Scene, name: &str| {
        examine(&scene.host)
            .into_iter()
            .find(|check| check.name == name)
            .unwrap()
            .is_good
    };
    assert!(!is_good(&scene, "target_core_user"));
    let mut checks = examine(&scene.host).into_iter();
    assert!(checks.all(|check| check.name != "netlink"));
    scene.put(
        "sys/module/target_core_user/parameters/block_netlink",
        "unblocked\n",
    );
    assert!(is_good(&scene, "target_core_user"));
    assert!(is_good(&scene, "netlink"));
    scene.put(
        "sys/module/target_core_user/parameters/block_netlink",
        "blocked\n",
    );
    assert!(!is_good(&scene, "netlink"));
    assert!(is_good(&scene, "daemon"));
    drop(scene.daemon.take());
    assert!(!is_good(&scene, "daemon"));
}
