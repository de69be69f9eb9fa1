//! The configfs directory of one device: what the kernel can be asked and told of it.
//!
//! adopt, devices, device -> **backstore** -> /sys/kernel/config/target/core
//!
//! Source: drivers/target/target_core_user.c (`action`), target_core_configfs.c (`wwn`).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use layers::tcmu_names::UioName;

const CORE: &str = "/sys/kernel/config/target/core";

/// In front of the serial in `wwn/vpd_unit_serial`.
const SERIAL_LABEL: &str = "T10 VPD Unit Serial Number: ";

/// One device of the kernel's target.
#[derive(Debug, Clone)]
pub(crate) struct Backstore {
    dir: PathBuf,
    name: String,
}

impl Backstore {
    /// That of the device `name`.
    #[must_use]
    pub(crate) fn of(name: &UioName) -> Self {
        Self::below(Path::new(CORE), name)
    }

    fn below(core: &Path, name: &UioName) -> Self {
        let hba = name.adapter();
        Self {
            dir: core.join(&hba).join(&name.device),
            name: format!("{hba}/{}", name.device),
        }
    }

    /// Sends commands that come from now on back, to be asked again; or has them come again.
    ///
    /// # Errors
    /// From the kernel; one too old for it says `NotFound`.
    pub(crate) fn block(&self, is_blocked: bool) -> io::Result<()> {
        self.act("block_dev", if is_blocked { "1" } else { "0" })
    }

    /// Sends all commands back that were given and not answered, to be asked again, and empties the
    /// ring. Nobody may be using it.
    ///
    /// # Errors
    /// From the kernel; one too old for it says `NotFound`.
    pub(crate) fn reset_ring(&self) -> io::Result<()> {
        self.act("reset_ring", "1")
    }

    fn act(&self, action: &str, value: &str) -> io::Result<()> {
        fs::write(self.dir.join("action").join(action), value)
    }

    /// The serial that was given to it, or one made of its name: two devices of one image must not
    /// have the same, or they would be taken for two ways to one disk.
    #[must_use]
    pub(crate) fn serial(&self) -> String {
        let text = fs::read_to_string(self.dir.join("wwn/vpd_unit_serial")).unwrap_or_default();
        let given = text.trim_end().strip_prefix(SERIAL_LABEL.trim_end());
        match given.map(str::trim).filter(|serial| !serial.is_empty()) {
            Some(serial) => serial.to_owned(),
            None => {
                let crc = crc32c::crc32c(self.name.as_bytes());
                let other = crc32c::crc32c_append(crc, b"serial");
                format!("{crc:08x}{other:08x}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(device: &str) -> UioName {
        let text = format!("tcm-user/7/{device}/overlaybd//config.json");
        UioName::parse(&text).unwrap()
    }

    #[test]
    fn a_serial_that_was_given_is_used_and_else_each_device_has_its_own() {
        let core = tempfile::tempdir().unwrap();
        let one = Backstore::below(core.path(), &name("one"));
        let two = Backstore::below(core.path(), &name("two"));
        assert_ne!(one.serial(), two.serial());
        assert_eq!(one.serial().len(), 16);
        let wwn = core.path().join("user_7/one/wwn");
        fs::create_dir_all(&wwn).unwrap();
        let file = wwn.join("vpd_unit_serial");
        fs::write(&file, "T10 VPD Unit Serial Number: \n").unwrap();
        assert_eq!(one.serial().len(), 16);
        fs::write(&file, "T10 VPD Unit Serial Number: abc-1\n").unwrap();
        assert_eq!(one.serial(), "abc-1");
    }

    #[test]
    fn actions_of_a_kernel_that_has_none_say_so() {
        let core = tempfile::tempdir().unwrap();
        let one = Backstore::below(core.path(), &name("one"));
        let error = one.block(true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
