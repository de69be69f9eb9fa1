//! The kernel's devices of this handler, as sysfs names them.
//!
//! adopt, serve -> **uio** -> /sys/class/uio
//!
//! Source: format reference 8.2; drivers/target/target_core_user.c (uio name).

use std::fs;
use std::io;
use std::path::Path;

use layers::tcmu_names::UioName;

const CLASS: &str = "/sys/class/uio";

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
