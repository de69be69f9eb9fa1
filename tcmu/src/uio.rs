//! The kernel's devices of this handler, as sysfs names them.
//!
//! adopt, serve -> **uio** -> /sys/class/uio
//!
//! Source: format reference 8.2; drivers/target/target_core_user.c (uio name).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const CLASS: &str = "/sys/class/uio";
const HANDLER: &str = "overlaybd";

/// What the name of a uio device says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UioName {
    /// Number of the host bus adapter: `user_<hba>`.
    pub hba: u32,
    /// The kernel's name of the device.
    pub device: String,
    /// The image's config.
    pub config: PathBuf,
    /// For snapshots; empty for a device without.
    pub dev_id: String,
    /// `dev_config` behind the handler's name.
    pub handler_config: String,
}

impl UioName {
    /// Takes `tcm-user/<hba>/<device>/overlaybd/<config>[;<dev_id>]` apart; `None` for another handler's
    /// device, or one that is not TCMU's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.trim_end_matches('\n').splitn(5, '/');
        if parts.next()? != "tcm-user" {
            return None;
        }
        let hba = parts.next()?.parse().ok()?;
        let device = parts.next()?.to_owned();
        if parts.next()? != HANDLER {
            return None;
        }
        let handler_config = parts.next()?.to_owned();
        let (config, dev_id) = handler_config
            .split_once(';')
            .unwrap_or((&handler_config, ""));
        Some(Self {
            hba,
            device,
            config: config.into(),
            dev_id: dev_id.to_owned(),
            handler_config: handler_config.clone(),
        })
    }
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uio {
    /// N of /dev/uioN.
    pub number: u32,
    /// What it is called.
    pub name: UioName,
}

/// All devices of this handler.
///
/// # Errors
/// When sysfs cannot be read.
pub fn find_all() -> io::Result<Vec<Uio>> {
    let entries = match fs::read_dir(CLASS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("uio"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.extend(find(number)?);
        }
    }
    Ok(found)
}

/// The device /dev/uio`number`, if it is there and of this handler.
///
/// # Errors
/// When sysfs cannot be read.
pub fn find(number: u32) -> io::Result<Option<Uio>> {
    let path = Path::new(CLASS).join(format!("uio{number}/name"));
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // It goes away while it is read.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        other => other?,
    };
    Ok(UioName::parse(&text).map(|name| Uio { number, name }))
}
