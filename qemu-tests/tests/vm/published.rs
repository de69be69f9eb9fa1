//! A layer of a real registry image. It is other people's work and stays out of the repository.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use qemu_tests::lab::Lab;

/// The file in the directory that `OBD_EXTRA_VECTORS` names.
const LAYER: &str = "hello-world.obd";

#[test]
fn the_published_hello_world_layer_mounts_and_its_program_runs() -> Result<()> {
    let Some(dir) = std::env::var_os("OBD_EXTRA_VECTORS").map(PathBuf::from) else {
        // Past the test runner's capture: a check that did not run must be seen.
        let not_run = "NOT RUN: the published hello-world layer (OBD_EXTRA_VECTORS is not set)";
        return Ok(writeln!(std::io::stderr(), "{not_run}")?);
    };
    Lab::run(|lab| {
        let image = lab.image_of_layers("hello", &[dir.join(LAYER)])?;
        let daemon = lab.start_daemon("hello", &[&image])?;
        let mut vm = lab.vm("hello").disk(daemon.socket(0)?).boot()?;

        assert_eq!(vm.run("blockdev --getsize64 /dev/vda")?, "68719476736");
        vm.run("mkdir /mnt && mount -t ext4 -o ro /dev/vda /mnt")?;
        assert!(vm.run("/mnt/hello")?.contains("Hello from Docker!"));

        vm.shut_down()?;
        daemon.stop()
    })
}
