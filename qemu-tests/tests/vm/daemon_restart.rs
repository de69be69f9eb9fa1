//! The daemon dies under a running VM and comes back.

use std::fs;

use anyhow::{Result, ensure};
use qemu_tests::guest_assets::GuestAssets;
use qemu_tests::lab::Lab;

use crate::expected::sha256_line;

const READERS: usize = 4;
const PART_MIB: usize = 32;
const PASSES: usize = 5;
const KILLS: usize = 4;

/// Every reader reads its part of the disk again and again, past the guest's page cache, and
/// compares each pass with the checksum that it was given.
fn parallel_reads(sums: &[String]) -> String {
    let mut script = String::new();
    for (reader, sum) in sums.iter().enumerate() {
        script.push_str(&format!(
            "(
                 for pass in $(seq {PASSES}); do
                     sum=$(dd if=/dev/vda bs=1M count={PART_MIB} skip=$(({reader} * {PART_MIB})) \
                              iflag=direct status=none | sha256sum)
                     [ \"$sum\" = '{sum}' ] && echo good {reader} $pass || echo bad $sum
                 done
             ) &
             "
        ));
    }
    script + "wait"
}

#[test]
fn a_daemon_killed_under_parallel_reads_comes_back_and_the_guest_never_notices() -> Result<()> {
    Lab::run(|lab| {
        let raw = &GuestAssets::get()?.root_disk;
        let bytes = fs::read(raw)?;
        let parts = bytes.chunks(PART_MIB << 20).take(READERS);
        let sums: Vec<_> = parts.map(sha256_line).collect();
        let image = lab.import_image("root", raw)?;
        let mut daemon = lab.start_daemon("killed", &[&image])?;
        // The shell, dd and sha256sum that read are themselves on the disk that goes away.
        let mut vm = lab
            .vm("goes-on")
            .disk(daemon.socket(0)?)
            .root_on_first_disk()
            .boot()?;

        let mut reads = vm.start(&parallel_reads(&sums))?;
        let (mut passes, mut kills) = (0, 0);
        while let Some(line) = reads.next_line(lab.deadline(120))? {
            if line.is_empty() {
                continue;
            }
            ensure!(line.starts_with("good "), "a reader said {line}");
            passes += 1;
            // The other readers are in the middle of a pass.
            if passes % READERS == 2 && kills < KILLS {
                daemon.kill()?;
                daemon.start_again()?;
                kills += 1;
            }
        }
        assert_eq!((passes, kills), (READERS * PASSES, KILLS));

        vm.run("cd / && sha256sum --quiet -c /run/guest/tree.sha256")?;
        vm.shut_down()?;
        daemon.stop()
    })
}
