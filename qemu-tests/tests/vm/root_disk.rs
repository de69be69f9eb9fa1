//! A guest whose root disk is an overlaybd image.

use anyhow::Result;
use qemu_tests::guest_assets::GuestAssets;
use qemu_tests::lab::Lab;

#[test]
fn a_guest_with_an_overlaybd_root_disk_runs_debian_and_every_file_is_right() -> Result<()> {
    Lab::run(|lab| {
        let image = lab.import_image("root", &GuestAssets::get()?.root_disk)?;
        let daemon = lab.start_daemon("root", &[&image])?;
        assert_ne!(daemon.user_id()?, 0, "the daemon needs no privilege");
        let mut vm = lab
            .vm("root")
            .disk(daemon.socket(0)?)
            .root_on_first_disk()
            .boot()?;

        assert_eq!(vm.run("findmnt -n -o SOURCE,FSTYPE /")?, "/dev/vda ext4");
        assert_eq!(vm.run("cat /sys/block/vda/ro")?, "1");
        assert_eq!(vm.run("python3 -c 'print(6 * 7)'")?, "42");
        assert!(
            vm.run("dpkg --status bash")?
                .contains("Status: install ok installed")
        );

        // Under the mount points there are the tree's own directories: look at a second mount.
        vm.run("mount --bind / /mnt")?;
        vm.run("cd /mnt && sha256sum --quiet -c /run/guest/tree.sha256")?;
        let list = r"cd /mnt && find . -printf '%y %m %U:%G %p -> %l\n' | LC_ALL=C sort";
        vm.run(&format!("({list}) | cmp - /run/guest/tree.list"))?;

        vm.shut_down()?;
        daemon.stop()
    })
}
