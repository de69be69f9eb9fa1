//! Frees the devices that a dead daemon left, so that they can be unmounted and detached.
//!
//! obd doctor --unstick -> **unstick** -> host
//!
//! Touches only devices of our handler that no process serves, and the kernel's netlink queue only
//! while no daemon serves.
//!
//! Source: Linux `target_core_user.c`: `block_dev`, `reset_ring`, `reset_netlink`.

use super::device::{Device, devices};
use super::host::Host;
use super::owner::{Owner, Owners};

/// Frees them; returns one line for each thing done or refused by the kernel.
#[must_use]
pub fn unstick(host: &Host) -> Vec<String> {
    let mut told = Vec::new();
    if let Some(pid) = host.daemon() {
        told.push(format!(
            "netlink left alone: overlaybd-tcmu serves (pid {pid})"
        ));
    } else {
        told.push(free_enable(host));
    }
    let owners = Owners::look(host);
    for device in devices(host) {
        if device.uio.is_some() && owners.of(device.uio) == Owner::Nobody {
            told.push(free(host, &device));
        }
    }
    told
}

/// A hung `enable` ends with an error.
fn free_enable(host: &Host) -> String {
    let parameters = host.path("/sys/module/target_core_user/parameters");
    let steps = [
        ("block_netlink", "1"),
        ("reset_netlink", "1"),
        ("block_netlink", "0"),
    ];
    for (name, value) in steps {
        let path = parameters.join(name);
        if let Err(error) = host.try_write(&path, value) {
            return format!("netlink not reset: {}: {error}", path.display());
        }
    }
    "netlink reset: what waited for an answer has ended".to_owned()
}

fn free(host: &Host, device: &Device) -> String {
    let who = format!("{}/{}", device.hba, device.name);
    for (name, value) in [("block_dev", "1"), ("reset_ring", "2")] {
        let path = device.core.join("action").join(name);
        if let Err(error) = host.try_write(&path, value) {
            return format!("{who} not freed: {}: {error}", path.display());
        }
    }
    format!("{who} freed: its commands fail; umount, then obd detach {who}")
}
