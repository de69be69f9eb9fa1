//! What a host needs to have our block devices, and whether it has it.
//!
//! obd doctor -> **doctor** -> host, owner, device

use std::path::Path;

use super::device::devices;
use super::host::{self, Host};
use super::owner::{Owner, Owners};

/// Open files that a daemon with many devices needs.
const FILES_MIN: u64 = 65_536;

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckState {
    /// Nothing to do.
    Good,
    /// Something is to be mended.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub struct Check {
    /// What.
    pub name: String,
    /// How it went.
    pub state: CheckState,
    /// What was found; when bad, how to mend it.
    pub detail: String,
}

impl Check {
    fn of(name: &str, bad: Option<String>, good: &str) -> Self {
        let (state, detail) = match bad {
            Some(detail) => (CheckState::Bad, detail),
            None => (CheckState::Good, good.to_owned()),
        };
        Self {
            name: name.to_owned(),
            state,
            detail,
        }
    }
}

/// Looks at everything. Changes nothing.
#[must_use]
pub fn examine(host: &Host) -> Vec<Check> {
    let mut checks: Vec<_> = ["target_core_user", "tcm_loop"]
        .iter()
        .map(|module| check_module(host, module))
        .collect();
    checks.push(check_configfs(host));
    checks.push(check_root(host));
    checks.push(check_daemon(host));
    checks.extend(check_netlink(host));
    checks.push(check_files(host));
    checks.extend(check_devices(host));
    checks
}

fn check_module(host: &Host, module: &str) -> Check {
    let is_loaded = host.path("/sys/module").join(module).is_dir();
    let bad = (!is_loaded).then(|| {
        let release = host::read(&host.path("/proc/sys/kernel/osrelease")).unwrap_or_default();
        let list = host.path("/lib/modules").join(&release).join("modules.dep");
        let known = host::read(&list).unwrap_or_default();
        let file = format!("/{module}.ko");
        match known.lines().any(|line| {
            line.split(':')
                .next()
                .is_some_and(|path| path.contains(&file))
        }) {
            true => format!("not loaded: modprobe {module}"),
            false => format!(
                "kernel {release} has no such module (CONFIG_TCM_USER2, CONFIG_LOOPBACK_TARGET): \
                 install the distribution's full kernel package"
            ),
        }
    });
    Check::of(module, bad, "loaded")
}

fn check_configfs(host: &Host) -> Check {
    let bad = match (
        host.path("/sys/kernel/config").is_dir(),
        host.target().is_dir(),
    ) {
        (_, true) => None,
        (true, false) if is_mounted(host) => Some(
            "mounted, but /sys/kernel/config/target is missing: modprobe target_core_mod"
                .to_owned(),
        ),
        _ => Some("not mounted: mount -t configfs configfs /sys/kernel/config".to_owned()),
    };
    Check::of("configfs", bad, "mounted")
}

fn is_mounted(host: &Host) -> bool {
    let table = host::read(&host.path("/proc/self/mountinfo")).unwrap_or_default();
    table
        .lines()
        .any(|line| line.split(' ').nth(4) == Some("/sys/kernel/config"))
}

fn check_root(host: &Host) -> Check {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = host::read(&host.path("/proc/self/status")).unwrap_or_default();
    let field = |name| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let rights = field("CapEff:")
        .and_then(|hex| u64::from_str_radix(hex, 16).ok())
        .unwrap_or(0);
    let bad =
        (rights & SYS_ADMIN == 0).then(|| "attach and detach need root: sudo obd ...".to_owned());
    Check::of("permissions", bad, "root, or as good")
}

fn check_daemon(host: &Host) -> Check {
    match host.daemon() {
        Some(pid) => Check::of("daemon", None, &format!("overlaybd-tcmu serves, pid {pid}")),
        None => {
            let detail = "overlaybd-tcmu does not run: systemctl start overlaybd-tcmu";
            Check::of("daemon", Some(detail.to_owned()), "")
        }
    }
}

/// Nothing without the module, which has a check of its own.
fn check_netlink(host: &Host) -> Option<Check> {
    let module = host.path("/sys/module/target_core_user");
    let state = host::read(&module.join("parameters/block_netlink"));
    let bad = (state.as_deref() == Some("blocked")).then(|| {
        "blocked by a daemon that died while it started: start overlaybd-tcmu, or obd doctor --unstick"
            .to_owned()
    });
    module.is_dir().then(|| Check::of("netlink", bad, "open"))
}

fn check_files(host: &Host) -> Check {
    // The daemon's limits when one serves; this process's otherwise.
    let who = host
        .daemon()
        .filter(|pid| Path::new(pid).components().count() == 1);
    let limits = host
        .path("/proc")
        .join(who.as_deref().unwrap_or("self"))
        .join("limits");
    let text = host::read(&limits).unwrap_or_default();
    let hard = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|rest| rest.split_whitespace().nth(1));
    let bad = hard
        .and_then(|hard| hard.parse::<u64>().ok())
        .filter(|hard| *hard < FILES_MIN);
    let bad = bad.map(|hard| {
        format!(
            "at most {hard} open files, too few for many devices: LimitNOFILE=1048576 in the unit"
        )
    });
    Check::of("open files", bad, "enough")
}

fn check_devices(host: &Host) -> Vec<Check> {
    let owners = Owners::look(host);
    let mut checks = Vec::new();
    for device in devices(host) {
        let name = format!("device {}/{}", device.hba, device.name);
        let waiting = device.block.as_ref().map_or(0, |block| block.in_flight);
        let owner = owners.of(device.uio);
        let bad = match (&owner, device.uio) {
            (_, None) => Some(format!(
                "half made, or enable hangs: obd detach {}",
                device.name
            )),
            (Owner::Nobody, _) => Some(format!(
                "no process serves it, {waiting} commands wait: start overlaybd-tcmu, or obd doctor --unstick"
            )),
            (_, Some(uio)) if !host.path(&format!("/dev/uio{uio}")).exists() => {
                Some(format!("/dev/uio{uio} is missing: is /dev a devtmpfs?"))
            }
            _ if device.block.is_none() => {
                Some(format!("has no block device: obd detach {}", device.name))
            }
            _ => None,
        };
        checks.push(Check::of(&name, bad, "served"));
    }
    checks
}
