//! Frees the devices that a dead daemon left, so that they can be unmounted and detached; and gives those back
//! that were freed and are served again.
//!
//! obd doctor --unstick -> **unstick** -> host, disk, owner
//!
//! Invariants
//! - without a daemon: none starts meanwhile (its lock), and the kernel's netlink queue is freed as well.
//! - beside a daemon: only devices that it has given up are freed.
//! - what is freed is open here meanwhile. The kernel lets one process open it: nobody else, wherever
//!   it runs, serves it or takes it up.
//!
//! Source: Linux `target_core_user.c`: `block_dev`, `reset_ring`, `reset_netlink`, `tcmu_open`.

use std::fs::File;
use std::io;

use super::device::{Device, devices};
use super::disk;
use super::host::{Host, failed};
use super::owner::{Owner, Owners};
use crate::Result;
use crate::tcmu_names::{FAILED, SUCCESS};

/// Frees them, and gives back; returns one line for each thing done, refused by the kernel, or left alone for
/// lack of knowledge. Blocks; for what is given back until its new daemon answers.
#[must_use]
pub fn unstick(host: &Host) -> Vec<String> {
    match host.hold_off_daemon() {
        Ok(Some(lock)) => {
            let (mut told, served) = without_daemon(host);
            drop(lock);
            told.extend(give_back(host, &served));
            told
        }
        Ok(None) => beside_daemon(host),
        Err(error) => vec![format!("nothing is touched: {error}")],
    }
}

/// Also the devices that somebody else serves.
fn without_daemon(host: &Host) -> (Vec<String>, Vec<Device>) {
    let mut told = vec![free_enable(host)];
    let mut served = Vec::new();
    let mut has_freed = false;
    let owners = Owners::look(host, None);
    for device in devices(host) {
        match (device.uio, owners.of(device.uio)) {
            (Some(uio), Owner::Nobody) => {
                has_freed = true;
                told.push(free(host, &device, uio));
            }
            (Some(_), Owner::Process(_)) => served.push(device),
            (Some(_), Owner::Unknown) => told.push(format!(
                "{} left alone: not all processes can be looked at, ask as root",
                name(&device)
            )),
            (None, _) => {}
        }
    }
    if has_freed {
        let keep = "to keep what is freed: start overlaybd-tcmu, then obd doctor --unstick";
        told.push(keep.to_owned());
    }
    (told, served)
}

fn beside_daemon(host: &Host) -> Vec<String> {
    let daemon = host.daemon();
    let pid = daemon.as_deref().unwrap_or("unknown");
    let owners = Owners::look(host, daemon.as_deref());
    if !owners.is_complete() {
        return vec![format!(
            "nothing is touched: overlaybd-tcmu serves (pid {pid}), but that process cannot be looked at from here: \
             ask as root, where it runs (not in a container)"
        )];
    }
    let mut told = vec![format!(
        "netlink left alone: overlaybd-tcmu serves (pid {pid})"
    )];
    let mut served = Vec::new();
    for device in devices(host) {
        let Some(uio) = device.uio else { continue };
        // After the look at owners: what was taken up since then says so.
        let outcome = device.outcome(host);
        let is_given_up = outcome
            .as_deref()
            .is_some_and(|told| told.starts_with(FAILED));
        match owners.of(Some(uio)) {
            Owner::Nobody if is_given_up => told.push(free(host, &device, uio)),
            Owner::Process(_) if outcome.as_deref() == Some(SUCCESS) => served.push(device),
            _ => {}
        }
    }
    told.extend(give_back(host, &served));
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

fn free(host: &Host, device: &Device, uio: u32) -> String {
    let who = name(device);
    let node = host.path(&format!("/dev/uio{uio}"));
    let held = match File::open(&node) {
        Ok(held) => held,
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            return format!("{who} left alone: somebody serves it who is not seen from here");
        }
        Err(error) => return format!("{who} not freed: {}: {error}", node.display()),
    };
    let freed = fail_commands(host, device);
    drop(held);
    match freed {
        Ok(()) => format!("{who} freed, its commands fail: umount, then obd detach {who}"),
        Err(error) => format!("{who} not freed: {error}"),
    }
}

/// Those to come, then those under way.
fn fail_commands(host: &Host, device: &Device) -> Result<()> {
    for block in device.blocks(host) {
        let node = host.path("/dev").join(&block.name);
        disk::set_offline(host, &block.name)
            .map_err(|error| failed("set offline", &node, error))?;
    }
    for (name, value) in [("block_dev", "1"), ("reset_ring", "2")] {
        let path = device.core.join("action").join(name);
        host.write("fail its commands", &path, value)?;
    }
    Ok(())
}

/// Sets the disks of served devices running that an earlier call has set offline.
fn give_back(host: &Host, served: &[Device]) -> Vec<String> {
    let mut told = Vec::new();
    for device in served {
        let (who, blocks) = (name(device), device.blocks(host));
        let offline = blocks.iter().map(|block| &block.name);
        for block in offline.filter(|block| disk::is_offline(host, block)) {
            told.push(match disk::set_running(host, block) {
                Ok(()) => format!(
                    "{who} is served again: {block} set running; a file system that met errors wants umount and fsck"
                ),
                Err(error) => format!("{who}: {block} not set running: {error}"),
            });
        }
    }
    told
}

fn name(device: &Device) -> String {
    format!("{}/{}", device.hba, device.name)
}
