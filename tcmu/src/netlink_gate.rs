//! While a daemon starts, the kernel must not wait for answers of the one before.
//!
//! serve -> **netlink gate** -> /sys/module/target_core_user/parameters
//!
//! Source: format reference 8.3; drivers/target/target_core_user.c (block_netlink, reset_netlink).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const PARAMETERS: &str = "/sys/module/target_core_user/parameters";

/// The kernel refuses to make or remove devices (whoever asks, asks again) until this is dropped.
#[derive(Debug)]
pub(crate) struct NetlinkGate {
    file: PathBuf,
}

impl NetlinkGate {
    /// Closes the gate, and ends what waits for an answer of the daemon before. A kernel without the
    /// parameter is left as it is.
    ///
    /// # Errors
    /// From the kernel.
    pub(crate) fn close() -> io::Result<Option<Self>> {
        Self::close_below(Path::new(PARAMETERS))
    }

    fn close_below(parameters: &Path) -> io::Result<Option<Self>> {
        let file = parameters.join("block_netlink");
        if !file.exists() {
            return Ok(None);
        }
        fs::write(&file, "1")?;
        let gate = Self { file };
        let reset = parameters.join("reset_netlink");
        if reset.exists() {
            fs::write(reset, "1")?;
        }
        Ok(Some(gate))
    }
}

impl Drop for NetlinkGate {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.file, "0") {
            log::error!(
                "{}: {error}: devices can be neither made nor removed; write 0 to it",
                self.file.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_is_closed_until_it_is_dropped_and_waiters_are_freed_meanwhile() {
        let dir = tempfile::tempdir().unwrap();
        assert!(NetlinkGate::close_below(dir.path()).unwrap().is_none());
        let (block, reset) = (
            dir.path().join("block_netlink"),
            dir.path().join("reset_netlink"),
        );
        fs::write(&block, "0").unwrap();
        fs::write(&reset, "0").unwrap();
        let gate = NetlinkGate::close_below(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&block).unwrap(), "1");
        assert_eq!(fs::read_to_string(&reset).unwrap(), "1");
        drop(gate);
        assert_eq!(fs::read_to_string(&block).unwrap(), "0");
    }
}
