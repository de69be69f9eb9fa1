//! A host for tests: a directory that behaves as configfs and sysfs do, and remembers what was done.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::tree::Tree;
use super::*;
use crate::ErrorKind;
use crate::tcmu_names::{OBD_ADAPTER, outcome_name};

#[derive(Debug)]
struct FakeTree {
    root: PathBuf,
    steps: Mutex<Vec<String>>,
    /// A step whose text ends with this fails, with this errno.
    fails: Mutex<Option<(String, i32)>>,
    /// What the daemon tells when a device is enabled.
    outcome: Mutex<Option<&'static str>>,
}

impl FakeTree {
    fn step(&self, verb: &str, path: &Path) -> io::Result<()> {
        let path = path.strip_prefix(&self.root).unwrap_or(path).display();
        let step = format!("{verb} {path}");
        let fails = self.fails.lock().unwrap().clone();
        match fails {
            Some((end, errno)) if step.ends_with(&end) => Err(io::Error::from_raw_os_error(errno)),
            _ => {
                self.steps.lock().unwrap().push(step);
                Ok(())
            }
        }
    }
}

impl Tree for FakeTree {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.step("mkdir", path)?;
        fs::create_dir(path)?;
        if path.ends_with("tpgt_1") {
            fs::create_dir(path.join("lun"))?;
            fs::write(path.join("address"), "3:0:1\n")?;
        }
        Ok(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.step("rmdir", path)?;
        if path.parent().is_some_and(|hba| hba.ends_with(OBD_ADAPTER)) {
            let name = outcome_name(OBD_ADAPTER, path.file_name().unwrap().to_str().unwrap());
            let outcome = self.root.join("run/overlaybd-tcmu").join(name);
            if host::read(&outcome).as_deref() == Some("success") {
                fs::remove_file(outcome)?;
            }
        }
        fs::remove_dir_all(path)
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.step("link", path)?;
        symlink(target, path)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.step("unlink", path)?;
        fs::remove_file(path)
    }

    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        self.step(&format!("write {} to", value.trim_end()), path)?;
        if path.starts_with(self.root.join("sys/block")) {
            fs::write(path, value)?;
        }
        if let Some(config) = value.strip_prefix("dev_config=") {
            fs::create_dir_all(path.with_file_name("attrib"))?;
            fs::write(path.with_file_name("attrib").join("dev_config"), config)?;
        }
        if path.ends_with("enable") {
            let (core, told) = (path.parent().unwrap(), self.outcome.lock().unwrap());
            let name = core.file_name().unwrap().to_str().unwrap();
            let hba = core.parent().unwrap().file_name().unwrap();
            let file = outcome_name(hba.to_str().unwrap(), name);
            fs::create_dir_all(self.root.join("run/overlaybd-tcmu"))?;
            if let Some(told) = *told {
                fs::write(self.root.join("run/overlaybd-tcmu").join(file), told)?;
            }
        }
        Ok(())
    }
}

pub(super) struct Scene {
    pub(super) dir: TempDir,
    tree: Arc<FakeTree>,
    pub(super) host: Host,
    pub(super) daemon: Option<File>,
}

impl Scene {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tree = Arc::new(FakeTree {
            root: dir.path().to_owned(),
            steps: Mutex::default(),
            fails: Mutex::default(),
            outcome: Mutex::new(Some("success")),
        });
        let host = Host::new(
            dir.path().to_owned(),
            Arc::<FakeTree>::clone(&tree) as Arc<dyn Tree>,
        );
        for directory in [
            "sys/kernel/config/target",
            "sys/class/scsi_device/3:0:1:0/device/block/sdq",
            "sys/block/sdq/holders",
            "sys/block/sdq/device",
            "proc/self",
            "run",
            "dev",
        ] {
            fs::create_dir_all(dir.path().join(directory)).unwrap();
        }
        let put = |path: &str, text: &str| fs::write(dir.path().join(path), text).unwrap();
        put("sys/block/sdq/dev", "65:0\n");
        put("sys/block/sdq/size", "2048\n");
        put("sys/block/sdq/ro", "1\n");
        put("sys/block/sdq/device/timeout", "30\n");
        put("sys/block/sdq/device/state", "running\n");
        put("sys/block/sdq/stat", " 7 0 0 0 9 0 0 0 2 0 0\n");
        put("dev/sdq", "");
        put("run/overlaybd-tcmu.lock", "4711\n");
        put("result", "failed:failed to open layer 1");
        let text = format!(
            r#"{{"lowers":[{{"file":"/l"}}],"resultFile":"{}/result"}}"#,
            dir.path().display()
        );
        put("config.json", &text);
        let lock = File::open(dir.path().join("run/overlaybd-tcmu.lock")).unwrap();
        lock.lock().unwrap();
        Self {
            dir,
            tree,
            host,
            daemon: Some(lock),
        }
    }

    pub(super) fn attach(&self) -> crate::Result<Attached> {
        let options = AttachOptions {
            name: Some("disk".to_owned()),
            dev_id: Some("7".to_owned()),
            data_area_mb: 4,
            timeout: Duration::from_secs(20),
        };
        attach(&self.host, &self.config(), &options)
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("config.json").canonicalize().unwrap()
    }

    pub(super) fn take_steps(&self) -> Vec<String> {
        std::mem::take(&mut self.tree.steps.lock().unwrap())
    }

    fn fail(&self, end: &str, errno: i32) {
        *self.tree.fails.lock().unwrap() = Some((end.to_owned(), errno));
    }

    pub(super) fn put(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn outcome(&self, told: &str) {
        let name = outcome_name(OBD_ADAPTER, "disk");
        self.put(&format!("run/overlaybd-tcmu/{name}"), told);
    }

    fn left(&self) -> usize {
        let core = self.host.core().join(OBD_ADAPTER);
        host::names(&core).len() + host::names(&self.host.loopback()).len()
    }
}

#[test]
fn attach_takes_the_steps_of_the_snapshotter_and_detach_takes_them_back() {
    let scene = Scene::new();
    let attached = scene.attach().unwrap();
    assert_eq!(
        (attached.block.name.as_str(), attached.block.bytes),
        ("sdq", 1 << 20)
    );
    let target = "sys/kernel/config/target";
    let core = format!("{target}/core/{OBD_ADAPTER}/disk");
    let naa = names::naa("disk", 0);
    let directory = format!("{target}/loopback/{naa}");
    let config = scene.config();
    let expected = [
        format!("mkdir {target}/core"),
        format!("mkdir {target}/core/{OBD_ADAPTER}"),
        format!("mkdir {core}"),
        format!(
            "write dev_config=overlaybd/{};7 to {core}/control",
            config.display()
        ),
        format!("write max_data_area_mb=4 to {core}/control"),
        format!("write cmd_ring_size_mb=1 to {core}/control"),
        format!("write nl_reply_supported=-1 to {core}/control"),
        format!("write 1 to {core}/enable"),
        format!("write 2147483 to {core}/attrib/cmd_time_out"),
        format!("mkdir {target}/loopback"),
        format!("mkdir {directory}"),
        format!("mkdir {directory}/tpgt_1"),
        format!("mkdir {directory}/tpgt_1/lun/lun_0"),
        format!("write {naa} to {directory}/tpgt_1/nexus"),
        format!("link {directory}/tpgt_1/lun/lun_0/disk"),
        "write 2147483 to sys/block/sdq/device/timeout".to_owned(),
    ];
    assert_eq!(scene.take_steps(), expected);
    let device = find(&scene.host, config.to_str().unwrap()).unwrap();
    assert_eq!(
        (device.name.as_str(), device.dev_id.as_str()),
        ("disk", "7")
    );
    assert_eq!(find(&scene.host, "/dev/sdq").unwrap().name, "disk");
    detach(&scene.host, &device, DetachOptions::default()).unwrap();
    let expected = [
        format!("unlink {directory}/tpgt_1/lun/lun_0/disk"),
        format!("rmdir {directory}/tpgt_1/lun/lun_0"),
        format!("rmdir {directory}/tpgt_1"),
        format!("rmdir {directory}"),
        format!("rmdir {core}"),
    ];
    assert_eq!(scene.take_steps(), expected);
    assert_eq!(scene.left(), 0);
}

#[test]
fn whatever_step_fails_nothing_stays() {
    for step in [
        "enable",
        "control",
        "cmd_time_out",
        "loopback",
        "tpgt_1",
        "lun_0",
        "nexus",
        "lun_0/disk",
        "timeout",
    ] {
        let scene = Scene::new();
        scene.fail(step, libc::ENOENT);
        let error = scene.attach().unwrap_err().to_string();
        assert!(error.contains(step), "{step}: {error}");
        assert_eq!(scene.left(), 0, "{step}");
    }
}

#[test]
fn what_the_daemon_says_against_an_image_is_shown_and_nothing_stays() {
    let scene = Scene::new();
    *scene.tree.outcome.lock().unwrap() = Some("failed: open layer: /l: gone");
    let error = scene.attach().unwrap_err().to_string();
    assert!(error.contains("open layer: /l: gone"), "{error}");
    assert!(error.contains("failed to open layer 1"), "{error}");
    assert_eq!(scene.left(), 0);
    let outcomes = scene.dir.path().join("run/overlaybd-tcmu");
    assert_eq!(host::names(&outcomes), [""; 0]);
}

#[test]
fn a_daemon_that_says_nothing_is_not_waited_for_without_end() {
    let scene = Scene::new();
    *scene.tree.outcome.lock().unwrap() = None;
    let options = AttachOptions {
        name: None,
        dev_id: None,
        data_area_mb: 4,
        timeout: Duration::from_millis(50),
    };
    let error = attach(&scene.host, &scene.config(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains("--timeout"), "{error}");
    assert_eq!(scene.left(), 0);
}

#[test]
fn without_a_daemon_nothing_is_done() {
    let mut scene = Scene::new();
    drop(scene.daemon.take());
    let began = Instant::now();
    let error = scene.attach().unwrap_err().to_string();
    // It might have been about to start.
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert!(error.contains("systemctl start overlaybd-tcmu"), "{error}");
    assert_eq!(scene.take_steps(), [""; 0]);
}

#[test]
fn a_mounted_device_is_detached_only_by_force() {
    let scene = Scene::new();
    scene.attach().unwrap();
    scene.put(
        "proc/self/mountinfo",
        "9 1 65:0 / /mnt/a\\040b rw - ext4 /dev/sdq rw\n",
    );
    let device = find(&scene.host, "disk").unwrap();
    let error = detach(&scene.host, &device, DetachOptions::default()).unwrap_err();
    assert!(error.to_string().contains("mounted at /mnt/a b"), "{error}");
    detach(&scene.host, &device, DetachOptions { force: true }).unwrap();
    assert_eq!(scene.left(), 0);
}

#[test]
fn a_half_removed_device_is_detached() {
    let scene = Scene::new();
    scene.attach().unwrap();
    fs::remove_dir_all(scene.host.loopback()).unwrap();
    let device = find(&scene.host, "disk").unwrap();
    assert_eq!(device.block, None);
    detach(&scene.host, &device, DetachOptions::default()).unwrap();
    assert_eq!(scene.left(), 0);
}

#[test]
fn an_offline_disk_is_removed_without_the_flush_that_would_wait() {
    let scene = Scene::new();
    let cache = "sys/block/sdq/device/scsi_disk/3:0:1:0/cache_type";
    scene.put(cache, "write back\n");
    scene.attach().unwrap();
    scene.put("sys/block/sdq/device/state", "offline\n");
    let device = find(&scene.host, "disk").unwrap();
    scene.take_steps();
    detach(&scene.host, &device, DetachOptions::default()).unwrap();
    let first = scene.take_steps().into_iter().next().unwrap();
    assert_eq!(first, format!("write temporary write through to {cache}"));
    assert_eq!(scene.left(), 0);
}

#[test]
fn a_device_that_the_daemon_has_given_up_is_detached_without_waiting_for_it() {
    let scene = Scene::new();
    scene.attach().unwrap();
    scene.outcome("failed: gone");
    let device = find(&scene.host, "disk").unwrap();
    detach(&scene.host, &device, DetachOptions::default()).unwrap();
    assert_eq!(
        host::names(&scene.dir.path().join("run/overlaybd-tcmu")),
        [""; 0]
    );
}

#[test]
fn one_image_is_not_attached_twice_under_two_ids() {
    let scene = Scene::new();
    let attach = |dev_id: &str| {
        let options = AttachOptions {
            name: None,
            dev_id: Some(dev_id.to_owned()),
            data_area_mb: 4,
            timeout: Duration::from_secs(20),
        };
        attach(&scene.host, &scene.config(), &options)
    };
    attach("one").unwrap();
    assert_eq!(attach("two").unwrap_err().kind(), ErrorKind::Busy);
}
