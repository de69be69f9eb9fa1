//! SCSI targets by hand, as a snapshotter makes them: the steps of configfs, without any tool of ours.
//!
//! test -> **SCSI targets** -> `host_vm`

use anyhow::{Context, Result};
use serde_json::Value;

use crate::host_vm::{HostVm, PROGRAMS};

/// The configuration of `overlaybd-tcmu`.
pub const SERVICE_CONFIG: &str = "/mnt/scratch/overlaybd.json";

/// Shell functions: `attach HBA NAME DEV_CONFIG WWN [CONTROL]...` prints the disk, `detach HBA NAME WWN` removes it.
const FUNCTIONS: &str = r#"
core=/sys/kernel/config/target/core loopback=/sys/kernel/config/target/loopback
attach() {
    local hba=$1 name=$2 config=$3 wwn=$4 backstore=$core/user_$1/$2 target=$loopback/$4/tpgt_1 address try disk
    shift 4
    mkdir -p "$backstore" || return
    for setting in "dev_config=$config" "$@"; do echo -n "$setting" >"$backstore/control" || return; done
    # A daemon that starts takes over what is there before it takes what is new.
    for try in $(seq 300); do
        [ "$(cat /sys/module/target_core_user/parameters/block_netlink)" = unblocked ] && break
        sleep 0.1
    done
    echo -n 1 >"$backstore/enable" || return
    mkdir -p "$target/lun/lun_0" && echo -n "$wwn" >"$target/nexus" || return
    ln -s "$backstore" "$target/lun/lun_0/$name" || return
    address=$(cat "$target/address")
    for try in $(seq 300); do
        for disk in /sys/class/scsi_device/"$address":0/device/block/*; do
            [ -b "/dev/${disk##*/}" ] && echo "/dev/${disk##*/}" && return
        done
        sleep 0.1
    done
    echo "no disk at $address" && return 1
}
detach() {
    local backstore=$core/user_$1/$2 target=$loopback/$3/tpgt_1
    rm "$target/lun/lun_0/$2" && rmdir "$target/lun/lun_0" "$target" "$loopback/$3" "$backstore" "$core/user_$1"
}
"#;

/// As many seconds as a daemon may take to ask the kernel for events.
const DAEMON_STARTS: u32 = 30;

impl HostVm<'_> {
    /// Attaches target `number`; returns its disk, `/dev/sdX`. `settings` are further words for the file `control`.
    ///
    /// # Errors
    /// What the kernel or the daemon said; when no disk appears.
    pub fn attach_target(
        &mut self,
        number: u32,
        dev_config: &str,
        settings: &[&str],
    ) -> Result<String> {
        let settings = settings.join(" ");
        self.run(&format!(
            "{FUNCTIONS}\nattach {number} dev_{number} '{dev_config}' {} {settings}",
            wwn(number)
        ))
    }

    /// Removes what [`HostVm::attach_target`] made.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn detach_target(&mut self, number: u32) -> Result<()> {
        let command = format!("{FUNCTIONS}\ndetach {number} dev_{number} {}", wwn(number));
        self.run(&command).map(drop)
    }

    /// Starts `tcmu-runner` and waits until the kernel knows it.
    ///
    /// # Errors
    /// When it ends at once or is too slow.
    pub fn start_tcmu_runner(&mut self) -> Result<()> {
        self.start_daemon("tcmu-runner", "tcmu-runner", "/run/tcmu-runner.log")
    }

    /// Writes [`SERVICE_CONFIG`] with `keys`, an object; the daemon logs to its standard error.
    ///
    /// # Errors
    /// When `keys` is no object or the file cannot be written.
    pub fn configure_overlaybd_tcmu(&mut self, mut keys: Value) -> Result<()> {
        let object = keys.as_object_mut().context("keys of a service config")?;
        object.insert("logPath".to_owned(), "".into());
        self.run(&format!("echo '{keys}' >{SERVICE_CONFIG}"))
            .map(drop)
    }

    /// Starts `overlaybd-tcmu` as it was configured and waits until the kernel knows it. What it logs is part of the
    /// lab's verdict.
    ///
    /// # Errors
    /// When it ends at once or is too slow.
    pub fn start_overlaybd_tcmu(&mut self) -> Result<()> {
        let command = format!("{PROGRAMS}/overlaybd-tcmu {SERVICE_CONFIG}");
        self.start_daemon("overlaybd-tcmu", &command, "/dev/ttyS0")
    }

    /// Its process id is in `/run/NAME.pid` of the host. The kernel notes in its log whom it sends events.
    fn start_daemon(&mut self, name: &str, command: &str, log: &str) -> Result<()> {
        self.run(&format!(
            "known() {{ dmesg | grep -c 'tcmu daemon: command reply support 1'; }}
             before=$(known)
             {command} >{log} 2>&1 &
             echo $! >/run/{name}.pid
             for try in $(seq {DAEMON_STARTS}0); do
                 [ \"$(known)\" -gt \"$before\" ] && exit 0
                 kill -0 $! || break
                 sleep 0.1
             done
             [ -f {log} ] && cat {log}
             exit 1"
        ))
        .map(drop)
    }
}

fn wwn(number: u32) -> String {
    format!("naa.199{number:013}")
}
