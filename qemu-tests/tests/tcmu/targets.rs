//! SCSI targets by hand, as a snapshotter makes them: the steps of configfs, without any tool of ours.

use anyhow::Result;
use qemu_tests::host_vm::HostVm;

/// Shell functions: `attach HBA NAME DEV_CONFIG WWN [CONTROL]...` prints the disk, `detach HBA NAME WWN` removes it.
const FUNCTIONS: &str = r#"
core=/sys/kernel/config/target/core loopback=/sys/kernel/config/target/loopback
attach() {
    local hba=$1 name=$2 config=$3 wwn=$4 backstore=$core/user_$1/$2 target=$loopback/$4/tpgt_1 address try disk
    shift 4
    mkdir -p "$backstore" || return
    for setting in "dev_config=$config" "$@"; do echo -n "$setting" >"$backstore/control" || return; done
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

/// Attaches a target; returns its disk, `/dev/sdX`. `settings` are further words for the file `control`.
pub(crate) fn attach(
    host: &mut HostVm<'_>,
    number: u32,
    dev_config: &str,
    settings: &[&str],
) -> Result<String> {
    let settings = settings.join(" ");
    host.run(&format!(
        "{FUNCTIONS}\nattach {number} dev_{number} '{dev_config}' {} {settings}",
        wwn(number)
    ))
}

/// Removes what [`attach`] made.
pub(crate) fn detach(host: &mut HostVm<'_>, number: u32) -> Result<()> {
    let command = format!("{FUNCTIONS}\ndetach {number} dev_{number} {}", wwn(number));
    host.run(&command).map(drop)
}

fn wwn(number: u32) -> String {
    format!("naa.199{number:013}")
}
