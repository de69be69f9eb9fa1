//! Who uses a block device: mounts, swap, device mapper and the like.
//!
//! detach, ls -> **usage** -> procfs, sysfs
//!
//! Source: proc_pid_mountinfo(5), proc_swaps(5).

use super::host::{self, Host};

/// Mount points of the device and its partitions, in this mount namespace.
pub(super) fn mounts(host: &Host, block: &str) -> Vec<String> {
    let numbers: Vec<_> = blocks(host, block)
        .iter()
        .filter_map(|path| host::read(&path.join("dev")))
        .collect();
    let table = host::read(&host.path("/proc/self/mountinfo")).unwrap_or_default();
    let point = |line: &str| {
        let mut fields = line.split(' ');
        let device = fields.nth(2)?;
        let point = fields.nth(1)?;
        numbers
            .iter()
            .any(|number| number == device)
            .then(|| unescape(point))
    };
    table.lines().filter_map(point).collect()
}

/// Why it must not be removed, one reason each.
pub(super) fn reasons(host: &Host, block: &str) -> Vec<String> {
    let mut reasons: Vec<_> = mounts(host, block)
        .iter()
        .map(|point| format!("mounted at {point}"))
        .collect();
    for path in blocks(host, block) {
        let holders = host::names(&path.join("holders"));
        reasons.extend(holders.iter().map(|holder| format!("held by {holder}")));
    }
    let swaps = host::read(&host.path("/proc/swaps")).unwrap_or_default();
    let node = format!("/dev/{block}");
    let is_ours = |line: &&str| {
        let rest = line
            .split_whitespace()
            .next()
            .and_then(|file| file.strip_prefix(&node));
        rest.is_some_and(|rest| rest.chars().all(|letter| letter.is_ascii_digit()))
    };
    reasons.extend(
        swaps
            .lines()
            .filter(is_ours)
            .map(|_| "in use as swap".to_owned()),
    );
    reasons
}

/// The device's directory in sysfs and those of its partitions.
fn blocks(host: &Host, block: &str) -> Vec<std::path::PathBuf> {
    let whole = host.path("/sys/block").join(block);
    let partitions = host::names(&whole)
        .into_iter()
        .filter(|name| name.starts_with(block));
    let mut all: Vec<_> = partitions.map(|name| whole.join(name)).collect();
    all.push(whole);
    all
}

/// The kernel writes a space as `\040`.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}
