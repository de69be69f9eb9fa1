//! The devices of our handler that the host has, made by obd or a snapshotter, whole or half made.
//!
//! ls, detach, doctor -> **device** -> host
//!
//! Source: Linux `target_core_user.c` (uio name, attributes), `tcm_loop.c` (address).

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::host::{self, Host};
use super::owner::{Owner, Owners};
use super::usage;
use crate::tcmu_names::{OBD_ADAPTER, parse_dev_config};
use crate::{Error, ErrorKind, Result};

/// A backstore device, and what hangs on it.
#[derive(Debug, Clone)]
pub struct Device {
    /// Name of the host bus adapter: `user_<number>`.
    pub hba: String,
    /// Name below it.
    pub name: String,
    /// Path of the image's config; empty in a device that was never configured.
    pub config: PathBuf,
    /// What is behind the `;` of the kernel's config string.
    pub dev_id: String,
    /// Number of its uio device; none before it is enabled.
    pub uio: Option<u32>,
    /// Its block device; none when it is half made.
    pub block: Option<BlockDevice>,
    pub(super) core: PathBuf,
    /// Loopback directories (`naa.*`) with a link to it.
    pub(super) loopbacks: Vec<PathBuf>,
}

/// A block device as sysfs shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockDevice {
    /// `sda`.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Nothing can be written to it.
    pub is_read_only: bool,
    /// Completed reads since it was made.
    pub reads: u64,
    /// Completed writes since it was made.
    pub writes: u64,
    /// Commands that are not answered yet.
    pub in_flight: u64,
}

/// All devices of our handler, and those of obd that were never configured.
#[must_use]
pub fn devices(host: &Host) -> Vec<Device> {
    let uios = uios(host);
    let loops = loopbacks(host);
    let mut devices = Vec::new();
    for hba in host::names(&host.core()) {
        if !hba.starts_with("user_") {
            continue;
        }
        let directory = host.core().join(&hba);
        for name in host::names(&directory) {
            let core = directory.join(&name);
            let key = (hba.clone(), name.clone());
            let uio = uios.get(&key);
            let text = config_text(&core).or_else(|| uio.map(|(_, text)| text.clone()));
            let meaning = match text.as_deref().map(parse_dev_config) {
                Some(Some(meaning)) => meaning,
                None if core.is_dir() && hba == OBD_ADAPTER => Default::default(),
                _ => continue,
            };
            let number = uio.map(|(number, _)| *number);
            devices.push(describe(host, key, core, meaning, number, &loops));
        }
    }
    if devices.is_empty() {
        // configfs may be closed to this user; uio's names are not.
        for (key, (number, text)) in uios {
            let core = host.core().join(&key.0).join(&key.1);
            if let Some(meaning) = parse_dev_config(&text) {
                devices.push(describe(host, key, core, meaning, Some(number), &loops));
            }
        }
        devices.sort_by(|one, other| (&one.hba, &one.name).cmp(&(&other.hba, &other.name)));
    }
    devices
}

/// The one device that `what` names: `/dev/sdX`, a device name, or the path of a config.
///
/// # Errors
/// `NotFound`; `Config` when it names several.
pub fn find(host: &Host, what: &str) -> Result<Device> {
    let absolute = fs::canonicalize(what)
        .or_else(|_| std::path::absolute(what))
        .unwrap_or_else(|_| PathBuf::from(what));
    let is_meant = |device: &Device| {
        let block = device
            .block
            .as_ref()
            .map(|block| format!("/dev/{}", block.name));
        block.as_deref() == Some(what)
            || device.name == what
            || format!("{}/{}", device.hba, device.name) == what
            || device.config == Path::new(what)
            || device.config == absolute
    };
    let mut meant: Vec<_> = devices(host).into_iter().filter(is_meant).collect();
    let refuse = |kind, detail: String| Error::new(kind, "find device", detail).in_file(what);
    match (meant.pop(), meant.len()) {
        (Some(device), 0) => Ok(device),
        (Some(_), more) => {
            let detail = format!(
                "{} devices have it: name one as `obd ls` does, hba/name",
                more + 1
            );
            Err(refuse(ErrorKind::Config, detail))
        }
        (None, _) => {
            let detail = "no overlaybd device is that: see `obd ls`".to_owned();
            Err(refuse(ErrorKind::NotFound, detail))
        }
    }
}

impl Device {
    /// Where its block device is mounted, in this mount namespace.
    #[must_use]
    pub fn mounts(&self, host: &Host) -> Vec<String> {
        let block = self.block.as_ref();
        block.map_or_else(Vec::new, |block| usage::mounts(host, &block.name))
    }

    /// All its block devices: one for each loopback target.
    pub(super) fn blocks(&self, host: &Host) -> Vec<BlockDevice> {
        let loopbacks = self.loopbacks.iter();
        loopbacks
            .filter_map(|directory| block_of(host, directory))
            .collect()
    }

    /// What the daemon last told of it: an earlier one, when none serves.
    pub(super) fn outcome(&self, host: &Host) -> Option<String> {
        host::read(&host.outcome(&self.hba, &self.name))
    }
}

/// All devices and who serves each. Looks at the open files of all processes.
#[must_use]
pub fn owned(host: &Host) -> Vec<(Device, Owner)> {
    let owners = Owners::look(host, host.daemon().as_deref());
    let owned = |device: Device| (owners.of(device.uio), device);
    let all = devices(host).into_iter().map(owned);
    all.map(|(owner, device)| (device, owner)).collect()
}

fn describe(
    host: &Host,
    (hba, name): (String, String),
    core: PathBuf,
    (config, dev_id): (PathBuf, String),
    uio: Option<u32>,
    loops: &[(PathBuf, PathBuf)],
) -> Device {
    let meant = fs::canonicalize(&core).unwrap_or_else(|_| core.clone());
    let loopbacks: Vec<_> = loops
        .iter()
        .filter(|(_, target)| *target == meant)
        .map(|(directory, _)| directory.clone())
        .collect();
    let block = loopbacks
        .iter()
        .find_map(|directory| block_of(host, directory));
    Device {
        hba,
        name,
        config,
        dev_id,
        uio,
        block,
        core,
        loopbacks,
    }
}

/// The kernel's config string of a backstore, when it has one.
fn config_text(core: &Path) -> Option<String> {
    let attribute = host::read(&core.join("attrib/dev_config")).filter(|text| !text.is_empty());
    attribute.or_else(|| {
        let info = host::read(&core.join("info"))?;
        let (_, behind) = info.split_once("Config: ")?;
        let (text, _) = behind.split_once(" Size: ").unwrap_or((behind, ""));
        (text != "NULL").then(|| text.trim().to_owned())
    })
}

/// (hba, name) -> (number, config string) of every TCMU device that is enabled.
fn uios(host: &Host) -> HashMap<(String, String), (u32, String)> {
    let directory = host.path("/sys/class/uio");
    let one = |entry: String| {
        let number = entry.strip_prefix("uio")?.parse().ok()?;
        let whole = host::read(&directory.join(&entry).join("name"))?;
        let mut parts = whole.strip_prefix("tcm-user/")?.splitn(3, '/');
        let (hba, name, text) = (parts.next()?, parts.next()?, parts.next()?);
        Some((
            (format!("user_{hba}"), name.to_owned()),
            (number, text.to_owned()),
        ))
    };
    host::names(&directory)
        .into_iter()
        .filter_map(one)
        .collect()
}

/// Every loopback directory and the backstore it leads to.
fn loopbacks(host: &Host) -> Vec<(PathBuf, PathBuf)> {
    let mut all = Vec::new();
    for name in host::names(&host.loopback()) {
        let directory = host.loopback().join(name);
        for (_, target) in links(&directory) {
            all.push((directory.clone(), target));
        }
    }
    all
}

/// The links below a loopback directory's units, and where each leads.
pub(super) fn links(directory: &Path) -> Vec<(PathBuf, PathBuf)> {
    let units = directory.join("tpgt_1/lun");
    let mut found = Vec::new();
    for unit in host::names(&units) {
        let unit = units.join(unit);
        for entry in host::names(&unit) {
            let link = unit.join(entry);
            if link.is_symlink()
                && let Ok(target) = fs::canonicalize(&link)
            {
                found.push((link, target));
            }
        }
    }
    found
}

/// The block device of a loopback directory, once the kernel has found it.
pub(super) fn block_of(host: &Host, directory: &Path) -> Option<BlockDevice> {
    let address = host::read(&directory.join("tpgt_1/address"))?;
    let scsi = host
        .path("/sys/class/scsi_device")
        .join(format!("{address}:0"));
    let name = host::names(&scsi.join("device/block")).into_iter().next()?;
    let block = host.path("/sys/block").join(&name);
    let number = |file: &str| host::read(&block.join(file)).and_then(|text| text.parse().ok());
    let stat = host::read(&block.join("stat")).unwrap_or_default();
    let field = |at| {
        stat.split_whitespace()
            .nth(at)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    Some(BlockDevice {
        bytes: number("size").map_or(0, |sectors: u64| sectors.saturating_mul(512)),
        is_read_only: number("ro") == Some(1_u64),
        reads: field(0),
        writes: field(4),
        in_flight: field(8),
        name,
    })
}
