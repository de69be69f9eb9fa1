//! fio jobs that write, and read back what they have written.

/// Three jobs at a time in the directory `dir`: one write after the other, many at a time, both
/// with random sizes past the guest's page cache, and one through it. fio ends with an error when a byte is
/// not what it wrote last.
pub(crate) fn verified_writes(dir: &str, megabytes: u32) -> String {
    format!(
        "mkdir -p {dir} && fio --directory={dir} --size={megabytes}m --ioengine=libaio \\
             --verify=crc32c --verify_fatal=1 --rw=randwrite --randrepeat=0 --group_reporting \\
             --output=/run/fio.output \\
             --name=shallow --direct=1 --iodepth=1 --bsrange=512-128k --blockalign=512 \\
             --name=deep --direct=1 --iodepth=32 --bsrange=512-256k --blockalign=512 \\
             --name=cached --iodepth=8 --bsrange=512-64k --blockalign=512 --fsync=32 ||
             {{ cat /run/fio.output; exit 1; }}"
    )
}
