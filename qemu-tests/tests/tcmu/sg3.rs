//! SCSI commands by hand, with sg3-utils: what the disks say of themselves, what they do, how they refuse.

use anyhow::Result;
use qemu_tests::host_vm::{HostVm, SCRATCH};
use qemu_tests::lab::Lab;

use crate::scene;

/// Exit statuses of sg3-utils (sg3_utils(8)).
const ILLEGAL_REQUEST: i32 = 5;
const DATA_PROTECT: i32 = 7;
const INVALID_OPERATION_CODE: i32 = 9;
const LBA_OUT_OF_RANGE: i32 = 22;

/// Runs a tool that must end with `status`; returns what it said.
fn ends_with(host: &mut HostVm<'_>, status: i32, command: &str) -> Result<String> {
    host.run(&format!(
        "cd {SCRATCH}; {command}; status=$?; [ $status = {status} ] || {{ echo \"status $status\"; exit 1; }}"
    ))
}

/// Runs a tool that must succeed and say all of `lines`.
fn says(host: &mut HostVm<'_>, command: &str, lines: &[&str]) -> Result<()> {
    let said = ends_with(host, 0, command)?;
    for line in lines {
        assert!(said.contains(line), "{command}: no {line:?} in {said}");
    }
    Ok(())
}

fn queue(host: &mut HostVm<'_>, disk: &str) -> Result<String> {
    let block = disk.trim_start_matches("/dev/");
    host.run(&format!(
        "cd /sys/block/{block}/queue && echo $(cat logical_block_size physical_block_size rotational write_cache fua \
         discard_max_bytes discard_granularity) && blockdev --getro {disk}"
    ))
}

#[test]
fn a_writable_disk_answers_sg3_utils_as_the_standards_say() -> Result<()> {
    Lab::run(|lab| {
        let mut host = scene::boot_serving(lab.container_host("sg3"))?;
        let config = scene::empty_disk(&mut host, "log", "")?;
        let disk = scene::attach(&mut host, &config)?;
        let limits = "512 4096 0 write back 1 1073741824 4096\n0";
        assert_eq!(queue(&mut host, &disk)?, limits);
        check_what_it_says_of_itself(&mut host, &disk)?;
        check_commands_without_data(&mut host, &disk)?;
        check_write_same_and_unmap(&mut host, &disk)?;
        check_refusals(&mut host, &disk)?;

        let config = scene::write_config(&mut host, "native", &scene::native_layers(2), None)?;
        let disk = scene::attach(&mut host, &config)?;
        check_read_only(&mut host, &disk)?;
        host.shut_down()
    })
}

fn check_what_it_says_of_itself(host: &mut HostVm<'_>, disk: &str) -> Result<()> {
    let serial = host.run(&format!("sg_inq --page=0x80 --raw {disk} | tail -c +5"))?;
    let identity = ["LIO-ORG", "TCMU device", "version=0x05", &serial];
    says(host, &format!("sg_inq {disk}"), &identity)?;
    let pages = ["[sv]", "[sn]", "[di]", "[bl]", "[bdc]", "[lbpv]"];
    says(host, &format!("sg_vpd -p 0 {disk}"), &pages)?;
    let names = [
        &format!("vendor specific: {serial}"),
        "0x6001405",
        &format!("{SCRATCH}/log.json"),
    ];
    says(host, &format!("sg_vpd -p 0x83 {disk}"), &names)?;
    let limits = [
        "(WSNZ): 1",
        "Maximum unmap LBA count: 2097152",
        "Maximum unmap block descriptor count: 256",
        "Optimal unmap granularity: 8 blocks",
        "Maximum write same length: 0x20000 blocks",
    ];
    says(host, &format!("sg_vpd -p 0xb0 {disk}"), &limits)?;
    let medium = ["Non-rotating medium"];
    says(host, &format!("sg_vpd -p 0xb1 {disk}"), &medium)?;
    let provisioning = [
        "(LBPU): 1",
        "(LBPWS): 1",
        "(LBPWS10): 1",
        "(LBPRZ): 1",
        "2 (thin provisioned)",
    ];
    says(host, &format!("sg_vpd -p 0xb2 {disk}"), &provisioning)?;
    let last = ["Last LBA=2097151", "block length=512 bytes"];
    says(host, &format!("sg_readcap {disk}"), &last)?;
    let thin = ["Last LBA=2097151", "exponent=3", "lbpme=1, lbprz=1"];
    says(host, &format!("sg_readcap --16 {disk}"), &thin)?;
    let caching = ["WP=0, DpoFua=1", "08 12 04 00"];
    says(host, &format!("sg_modes {disk}"), &caching)?;
    says(host, &format!("sg_modes -6 {disk}"), &caching)
}

fn check_commands_without_data(host: &mut HostVm<'_>, disk: &str) -> Result<()> {
    for command in [
        "sg_turs",
        "sg_sync",
        "sg_sync --16",
        "sg_start --start",
        "sg_verify --lba=0 --count=2048",
        "sg_verify --16 --lba=2097151 --count=1",
    ] {
        ends_with(host, 0, &format!("{command} {disk}"))?;
    }
    let only = ["1 lun entry", "0000000000000000"];
    says(host, &format!("sg_luns {disk}"), &only)?;
    says(host, &format!("sg_requests {disk}"), &["No Sense"])
}

fn check_write_same_and_unmap(host: &mut HostVm<'_>, disk: &str) -> Result<()> {
    host.run(&format!(
        "cd {SCRATCH}; yes 0123456789abcde | tr -d '\\n' | head -c 512 >block"
    ))?;
    let read = |skip: u32, count: u32| {
        format!("dd if={disk} of=read skip={skip} count={count} iflag=direct status=none")
    };
    let write = format!("sg_write_same --in=block --lba=8 --num=16 {disk}");
    ends_with(host, 0, &write)?;
    let same = "for i in $(seq 16); do cat block; done | cmp - read";
    ends_with(host, 0, &format!("{} && {same}", read(8, 16)))?;
    for command in [
        "sg_write_same --16 --unmap --in=/dev/zero --xferlen=512 --lba=8 --num=8",
        "sg_write_same --16 --ndob --lba=16 --num=4",
        "sg_write_same --10 --unmap --in=/dev/zero --xferlen=512 --lba=20 --num=1",
        "sg_unmap --force --lba=21 --num=1",
    ] {
        ends_with(host, 0, &format!("{command} {disk}"))?;
    }
    let zeros = "head -c 7168 /dev/zero | cmp - read";
    ends_with(host, 0, &format!("{} && {zeros}", read(8, 14)))?;
    let rest = "cat block block | cmp - read";
    ends_with(host, 0, &format!("{} && {rest}", read(22, 2))).map(drop)
}

fn check_refusals(host: &mut HostVm<'_>, disk: &str) -> Result<()> {
    let unknown = format!("sg_raw -r 512 {disk} ff 00 00 00 00 00");
    let said = ends_with(host, INVALID_OPERATION_CODE, &unknown)?;
    assert!(said.contains("Invalid command operation code"), "{said}");
    for (status, command) in [
        (ILLEGAL_REQUEST, "sg_start --stop"),
        (ILLEGAL_REQUEST, "sg_requests --desc"),
        (ILLEGAL_REQUEST, "sg_vpd --force -p 0xc0"),
        // One block more than is allowed.
        (
            ILLEGAL_REQUEST,
            "sg_write_same --16 --in=block --lba=0 --num=131073",
        ),
        (LBA_OUT_OF_RANGE, "sg_verify --16 --lba=2097151 --count=2"),
        (LBA_OUT_OF_RANGE, "sg_unmap --force --lba=2097151 --num=2"),
    ] {
        ends_with(host, status, &format!("{command} {disk}"))?;
    }
    ends_with(host, 0, &format!("sg_turs {disk}")).map(drop)
}

fn check_read_only(host: &mut HostVm<'_>, disk: &str) -> Result<()> {
    assert_eq!(queue(host, disk)?, "512 4096 0 write through 0 0 0\n1");
    says(host, &format!("sg_modes {disk}"), &["WP=1"])?;
    // sd opens it for reading only; the generic driver does not look.
    let block = disk.trim_start_matches("/dev/");
    let generic = host.run(&format!(
        "echo /dev/$(ls /sys/block/{block}/device/scsi_generic)"
    ))?;
    let write = format!("sg_raw -s 512 -i block {generic} 2a 00 00 00 00 00 00 00 01 00");
    let said = ends_with(host, DATA_PROTECT, &write)?;
    assert!(said.contains("Write protected"), "{said}");
    for command in [
        "sg_unmap --force --lba=0 --num=8",
        "sg_write_same --16 --in=block --lba=0 --num=8",
        "sg_write_same --16 --unmap --ndob --lba=0 --num=8",
    ] {
        ends_with(host, DATA_PROTECT, &format!("{command} {generic}"))?;
    }
    host.run(&format!(
        "! dd if=/dev/zero of={disk} bs=4096 count=1 status=none"
    ))
    .map(drop)
}
