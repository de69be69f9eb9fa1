//! What `overlaybd-tcmu` and `obd attach` agree on: names of devices in the kernel, files below /run.
//!
//! tool::tcmu (obd attach, detach, ls, doctor), the daemon -> **tcmu_names**
//!
//! Source: format reference 8.1, 8.2; Linux `drivers/target/target_core_user.c` (uio name).

use std::path::PathBuf;

/// What the kernel's config string of our devices begins with.
pub const HANDLER: &str = "overlaybd";

/// The adapter that has obd's devices; a snapshotter's are others'.
pub const OBD_ADAPTER: &str = "user_999999998";

/// The daemon holds the lock (flock, exclusive) of this file while it serves; the file holds its
/// process number in decimal. Who only asks takes a shared lock for an instant, so a daemon that
/// finds the lock taken tries again for a second before it gives up.
pub const DAEMON_LOCK: &str = "/run/overlaybd-tcmu.lock";

/// Directory in which the daemon tells how it got on with each device: files [`outcome_name`], with [`SUCCESS`] or
/// `failed: REASON` ([`FAILED`]). There is none for a device that nobody has, or has any more.
pub const OUTCOMES: &str = "/run/overlaybd-tcmu";

/// The device is served.
pub const SUCCESS: &str = "success";

/// In front of the reason why it is not, and will not be.
pub const FAILED: &str = "failed: ";

/// Name of the file in [`OUTCOMES`] of the device `device` of an adapter such as `user_7`.
#[must_use]
pub fn outcome_name(adapter: &str, device: &str) -> String {
    format!("{adapter}_{device}")
}

/// Takes the kernel's config string of a device apart, `overlaybd/<config>[;<dev_id>]`; `None` for another handler's.
#[must_use]
pub fn parse_dev_config(text: &str) -> Option<(PathBuf, String)> {
    let rest = text.strip_prefix(HANDLER)?.strip_prefix('/')?;
    let (config, dev_id) = rest.split_once(';').unwrap_or((rest, ""));
    Some((config.into(), dev_id.to_owned()))
}

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
        let rest = name.trim_end_matches('\n').strip_prefix("tcm-user/")?;
        let mut parts = rest.splitn(3, '/');
        let hba = parts.next()?.parse().ok()?;
        let device = parts.next()?.to_owned();
        let dev_config = parts.next()?;
        let (config, dev_id) = parse_dev_config(dev_config)?;
        let (_, handler_config) = dev_config.split_once('/')?;
        Some(Self {
            hba,
            device,
            config,
            dev_id,
            handler_config: handler_config.to_owned(),
        })
    }

    /// The adapter, as the kernel's directories name it.
    #[must_use]
    pub fn adapter(&self) -> String {
        format!("user_{}", self.hba)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> Option<(u32, String, String, String)> {
        let name = UioName::parse(name)?;
        let config = name.config.to_str().unwrap().to_owned();
        Some((name.hba, name.device, config, name.dev_id))
    }

    fn expected(
        hba: u32,
        device: &str,
        config: &str,
        dev_id: &str,
    ) -> Option<(u32, String, String, String)> {
        Some((hba, device.into(), config.into(), dev_id.into()))
    }

    #[test]
    fn a_name_is_taken_apart_as_the_kernel_puts_it_together() {
        assert_eq!(
            parsed("tcm-user/999999999/dev_7/overlaybd//var/lib/7/config.v1.json\n"),
            expected(999_999_999, "dev_7", "/var/lib/7/config.v1.json", "")
        );
        let name = UioName::parse("tcm-user/1/a/overlaybd//b.json;id").unwrap();
        assert_eq!(name.handler_config, "/b.json;id");
    }

    #[test]
    fn the_config_ends_at_the_first_semicolon() {
        for (handler_config, config, dev_id) in [
            ("/b.json;id", "/b.json", "id"),
            ("/b.json;", "/b.json", ""),
            ("/b.json;i;d;", "/b.json", "i;d;"),
            (";id", "", "id"),
            (";", "", ""),
            ("", "", ""),
        ] {
            let name = format!("tcm-user/1/a/overlaybd/{handler_config}");
            let expected = expected(1, "a", config, dev_id);
            assert_eq!(parsed(&name), expected, "{handler_config}");
        }
    }

    #[test]
    fn any_character_that_the_kernel_allows_stays() {
        for config in [
            "relative.json",
            "//a//b.json",
            "/a b\t=,:%20.json",
            "/overlaybd/overlaybd/",
            "/\u{fc}\u{1f980}.json",
            "/a\nb.json",
        ] {
            let name = format!("tcm-user/0/d e;v=1/overlaybd/{config}");
            assert_eq!(parsed(&name), expected(0, "d e;v=1", config, ""));
        }
    }

    #[test]
    fn other_devices_are_none() {
        for name in [
            "",
            "\n",
            "tcm-user",
            "tcm-user/1/a",
            "tcm-user/1/a/overlaybd",
            "tcm-user/1/a/overlaybd2//b.json",
            "tcm-user/1/a/overlay//b.json",
            "tcm-user/1/a/OVERLAYBD//b.json",
            "tcm-user/1/a//overlaybd//b.json",
            "tcm-user/1/a/file//overlaybd/b.json",
            "tcm-user/-1/a/overlaybd//b.json",
            "tcm-user/4294967296/a/overlaybd//b.json",
            "tcm-user//a/overlaybd//b.json",
            " tcm-user/1/a/overlaybd//b.json",
            "uio_pci_generic",
        ] {
            assert_eq!(UioName::parse(name), None, "{name}");
        }
    }
}
