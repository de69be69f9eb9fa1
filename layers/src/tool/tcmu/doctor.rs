//! What a host needs to have our block devices, and whether it has it.
//!
//! obd doctor -> **doctor** -> host, owner, device, disk

use std::path::Path;

use super::device::{Device, devices};
use super::disk;
use super::host::{self, Host};
use super::owner::{Owner, Owners};
use crate::tcmu_names::FAILED;

/// Open files that a daemon with many devices needs.
const FILES_MIN: u64 = 65_536;

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub struct Check {
    /// What.
    pub name: String,
    /// Nothing is to be mended.
    pub is_good: bool,
    /// What was found; when bad, how to mend it.
    pub detail: String,
}

impl Check {
    fn of(name: &str, bad: Option<String>, good: &str) -> Self {
        Self {
            name: name.to_owned(),
            is_good: bad.is_none(),
            detail: bad.unwrap_or_else(|| good.to_owned()),
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
    let daemon = host.daemon();
    let owners = Owners::look(host, daemon.as_deref());
    let check = |device: &Device| {
        let name = format!("device {}/{}", device.hba, device.name);
        let owner = owners.of(device.uio);
        // Without a daemon it is an earlier one's.
        let outcome = daemon.as_ref().and_then(|_| device.outcome(host));
        let good = match owner {
            Owner::Unknown => "not known who serves it: ask as root, where the daemon runs",
            _ => "served",
        };
        Check::of(
            &name,
            trouble(host, device, &owner, outcome.as_deref()),
            good,
        )
    };
    devices(host).iter().map(check).collect()
}

fn trouble(host: &Host, device: &Device, owner: &Owner, outcome: Option<&str>) -> Option<String> {
    let who = format!("{}/{}", device.hba, device.name);
    let waiting = device.block.as_ref().map_or(0, |block| block.in_flight);
    let blocks = device.blocks(host);
    let offline = blocks
        .iter()
        .find(|block| disk::is_offline(host, &block.name));
    let reason = outcome.and_then(|told| told.strip_prefix(FAILED));
    match (owner, device.uio) {
        (_, None) => Some(format!(
            "half made, or enable hangs: obd detach {who}"
        )),
        (Owner::Nobody, _) if offline.is_some() => Some(format!(
            "freed by obd doctor --unstick: umount, then obd detach {who}; \
             or start overlaybd-tcmu, then obd doctor --unstick"
        )),
        (Owner::Nobody, _) if reason.is_some() => Some(format!(
            "overlaybd-tcmu has given it up ({}), {waiting} commands wait: obd doctor --unstick, obd detach {who}",
            reason.unwrap_or_default()
        )),
        (Owner::Nobody, _) => Some(format!(
            "no process serves it, {waiting} commands wait: start overlaybd-tcmu, or obd doctor --unstick"
        )),
        (_, Some(uio)) if !host.path(&format!("/dev/uio{uio}")).exists() => {
            Some(format!("/dev/uio{uio} is missing: is /dev a devtmpfs?"))
        }
        _ if device.block.is_none() => Some(format!("has no block device: obd detach {who}")),
        _ => offline.map(|block| {
            format!(
                "served, but /dev/{} is offline, its commands fail: obd doctor --unstick sets it running",
                block.name
            )
        }),
    }
}
