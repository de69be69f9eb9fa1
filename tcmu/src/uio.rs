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
    find_all_in(Path::new(CLASS))
}

fn find_all_in(class: &Path) -> io::Result<Vec<Uio>> {
    let entries = match fs::read_dir(class) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("uio"));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            found.extend(find_in(class, number)?);
        }
    }
    Ok(found)
}

/// The device /dev/uio`number`, if it is there and of this handler.
///
/// # Errors
/// When sysfs cannot be read.
pub fn find(number: u32) -> io::Result<Option<Uio>> {
    find_in(Path::new(CLASS), number)
}

fn find_in(class: &Path, number: u32) -> io::Result<Option<Uio>> {
    let path = class.join(format!("uio{number}/name"));
    let text = match fs::read(path) {
        Err(error) if is_gone(&error) => return Ok(None),
        other => other?,
    };
    // Others may call their devices what they like.
    let name = UioName::parse(&String::from_utf8_lossy(&text));
    Ok(name.map(|name| Uio { number, name }))
}

/// The device went away: before its name was read, or meanwhile, of which sysfs and the uio driver
/// have errors of their own.
fn is_gone(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    error.kind() == io::ErrorKind::NotFound
        || errno.is_some_and(|errno| [libc::ENODEV, libc::EINVAL].contains(&errno))
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

    fn class_with(names: &[(&str, &[u8])]) -> tempfile::TempDir {
        let class = tempfile::tempdir().unwrap();
        for (uio, name) in names {
            fs::create_dir(class.path().join(uio)).unwrap();
            fs::write(class.path().join(uio).join("name"), name).unwrap();
        }
        class
    }

    #[test]
    fn all_devices_of_this_handler_are_found_among_others() {
        let class = class_with(&[
            ("uio0", b"tcm-user/1/a/overlaybd//a.json\n"),
            ("uio1", b"tcm-user/1/b/file//b.img\n"),
            ("uio2", b"tcm-user/1/\xff\xfe/file//\x80\n"),
            ("uio12", b"tcm-user/1/c/overlaybd//c.json;c\n"),
            ("uio", b"tcm-user/1/d/overlaybd//d.json\n"),
            ("uiox", b"tcm-user/1/e/overlaybd//e.json\n"),
            ("cuio3", b"tcm-user/1/f/overlaybd//f.json\n"),
        ]);
        let mut found: Vec<_> = find_all_in(class.path())
            .unwrap()
            .into_iter()
            .map(|uio| (uio.number, uio.name.device))
            .collect();
        found.sort();
        assert_eq!(found, [(0, "a".to_owned()), (12, "c".to_owned())]);
    }

    #[test]
    fn a_host_without_uio_has_no_devices() {
        let class = tempfile::tempdir().unwrap();
        assert!(find_all_in(&class.path().join("none")).unwrap().is_empty());
        assert!(find_all_in(class.path()).unwrap().is_empty());
    }

    #[test]
    fn a_device_that_vanishes_is_none() {
        let class = class_with(&[("uio4", b"tcm-user/1/a/overlaybd//a.json\n")]);
        assert!(find_in(class.path(), 4).unwrap().is_some());
        assert!(find_in(class.path(), 5).unwrap().is_none());
        fs::remove_file(class.path().join("uio4/name")).unwrap();
        assert!(find_in(class.path(), 4).unwrap().is_none());
        assert!(find_all_in(class.path()).unwrap().is_empty());
        for errno in [libc::ENOENT, libc::ENODEV, libc::EINVAL] {
            assert!(is_gone(&io::Error::from_raw_os_error(errno)));
        }
    }

    #[test]
    fn a_name_that_cannot_be_read_is_an_error() {
        let class = class_with(&[]);
        fs::create_dir_all(class.path().join("uio4/name")).unwrap();
        assert!(find_in(class.path(), 4).is_err());
        assert!(find_all_in(class.path()).is_err());
    }
}
