//! A virtual machine that is a container host: SCSI targets of its own kernel, answered by daemons inside it.
//!
//! test -> **container host** -> `vm`, `serial`
//!
//! | disk | in the machine | what |
//! |---|---|---|
//! | /dev/vda | / | the tree of `scripts/make-host`; writes are lost with the machine |
//! | /dev/vdb | /mnt/programs | read-only: `bin` with the programs under test, `data` with files of the test |
//! | /dev/vdc | /mnt/scratch | empty, ext4 with room for [`SCRATCH_MIB`] |
//!
//! The machine has no network but its loopback, unless [`HostBuilder::network`] adds this host's. The log of a daemon in
//! it belongs on `/dev/ttyS0`, the console, which takes part in the lab's verdict.
//!
//! Invariants
//! - a booted host has the modules of TCMU loaded, configfs mounted and both disks mounted.

use std::fs::{self, File};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::guest_assets::GuestAssets;
use crate::lab::Lab;
use crate::programs::Programs;
use crate::vm::Vm;

/// Memory of the machine: containerd, page cache of images.
const MEMORY_MIB: u32 = 1536;

/// Size of the scratch disk; sparse in the lab's directory.
pub const SCRATCH_MIB: u64 = 8192;

/// Where the programs under test are in the machine.
pub const PROGRAMS: &str = "/mnt/programs/bin";

/// Where the files of the test are in the machine.
pub const DATA: &str = "/mnt/programs/data";

/// A writable directory with room.
pub const SCRATCH: &str = "/mnt/scratch";

/// Mounts and modules of a host that has just booted.
const PREPARE: &str = "
    mountpoint -q /sys/kernel/config || modprobe configfs
    mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
    mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
    mountpoint -q /tmp || mount -t tmpfs none /tmp
    mountpoint -q /dev/shm || { mkdir -p /dev/shm && mount -t tmpfs none /dev/shm; }
    [ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
    set -e
    modprobe -a uio target_core_mod target_core_user tcm_loop sd_mod sg overlay
    mount -o ro /dev/vdb /mnt/programs
    mount /dev/vdc /mnt/scratch
    ip link set lo up
";

/// The address that qemu's user networking expects; there is nothing to ask for one.
const CONNECT: &str = "
    set -e
    modprobe virtio_net
    card=$(ls /sys/class/net | grep -vx lo)
    ip address add 10.0.2.15/24 dev $card
    ip link set $card up
";

/// What a host is made of, before it is started.
#[derive(Debug)]
pub struct HostBuilder<'lab> {
    lab: &'lab Lab,
    name: String,
    files: Vec<(PathBuf, String)>,
    has_systemd: bool,
    has_network: bool,
}

/// A running host; all that a [`Vm`] does, it does.
#[derive(Debug)]
pub struct HostVm<'lab>(Vm<'lab>);

impl Lab {
    /// A container host with two CPUs; its process 1 is the command server.
    #[must_use]
    pub fn container_host(&self, name: &str) -> HostBuilder<'_> {
        HostBuilder {
            lab: self,
            name: name.to_owned(),
            files: Vec::new(),
            has_systemd: false,
            has_network: false,
        }
    }
}

impl<'lab> HostBuilder<'lab> {
    /// Brings a file or a directory with all that is in it into the machine, as [`DATA`]/`name`.
    #[must_use]
    pub fn file(mut self, path: &Path, name: &str) -> Self {
        self.files.push((path.to_owned(), name.to_owned()));
        self
    }

    /// Makes systemd process 1; the command server is one of its units.
    #[must_use]
    pub fn systemd(mut self) -> Self {
        self.has_systemd = true;
        self
    }

    /// Lets it reach the loopback of this host, as [`HOST_LOOPBACK`](crate::vm::HOST_LOOPBACK).
    #[must_use]
    pub fn network(mut self) -> Self {
        self.has_network = true;
        self
    }

    /// Starts qemu and waits until the host is ready.
    ///
    /// # Errors
    /// When a disk cannot be made or the host does not boot.
    pub fn boot(self) -> Result<HostVm<'lab>> {
        let programs = self.make_programs_disk()?;
        let scratch = self.make_scratch_disk()?;
        let assets = GuestAssets::of_container_host()?;
        let mut builder = self
            .lab
            .vm(&self.name)
            .assets(assets)
            .memory_mib(MEMORY_MIB)
            .raw_disk(&assets.root_disk, false)
            .raw_disk(&programs, false)
            .raw_disk(&scratch, true)
            .writable_root_on_first_disk();
        if self.has_systemd {
            builder = builder.kernel_argument("obd.systemd");
        }
        if self.has_network {
            builder = builder.network();
        }
        let mut vm = builder.boot()?;
        vm.run(PREPARE).context("prepare the container host")?;
        if self.has_network {
            vm.run(CONNECT).context("connect the container host")?;
        }
        Ok(HostVm(vm))
    }

    fn make_programs_disk(&self) -> Result<PathBuf> {
        let tree = self.lab.dir().join(format!("{}.programs", self.name));
        let (bin, data) = (tree.join("bin"), tree.join("data"));
        fs::create_dir_all(&bin)?;
        fs::create_dir(&data)?;
        for program in programs()? {
            strip(program, &bin)?;
        }
        for (path, name) in &self.files {
            copy(path, &data.join(name))?;
        }
        let disk = self.lab.dir().join(format!("{}.programs.ext4", self.name));
        make_ext4(&disk, used_mib(&tree)? * 5 / 4 + 16, Some(&tree))?;
        fs::remove_dir_all(&tree)?;
        Ok(disk)
    }

    fn make_scratch_disk(&self) -> Result<PathBuf> {
        let disk = self.lab.dir().join(format!("{}.scratch.ext4", self.name));
        make_ext4(&disk, SCRATCH_MIB, None)?;
        Ok(disk)
    }
}

impl HostVm<'_> {
    /// Ends the machine; its kernel must not have met an I/O error.
    ///
    /// # Errors
    /// As [`Vm::shut_down`].
    pub fn shut_down(self) -> Result<()> {
        self.0.shut_down()
    }

    /// Kills qemu with SIGKILL.
    ///
    /// # Errors
    /// As [`Vm::kill`].
    pub fn kill(self) -> Result<()> {
        self.0.kill()
    }
}

impl<'lab> Deref for HostVm<'lab> {
    type Target = Vm<'lab>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for HostVm<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

fn programs() -> Result<[&'static Path; 4]> {
    let programs = Programs::get()?;
    Ok([
        &programs.tcmu,
        &programs.obd,
        &programs.create,
        &programs.commit,
    ])
}

/// Without what only debuggers read, which is most of a program that is built for tests.
fn strip(program: &Path, dir: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    run(Command::new("strip")
        .arg("-o")
        .arg(dir.join(name))
        .arg(program))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp")
        .args(["-rL", "--sparse=always"])
        .args([from, to]))
}

fn used_mib(tree: &Path) -> Result<u64> {
    let output = Command::new("du").arg("-sm").arg(tree).output()?;
    let text = String::from_utf8(output.stdout)?;
    let number = text.split_whitespace().next().unwrap_or_default();
    number
        .parse()
        .with_context(|| format!("size of {}: {text:?}", tree.display()))
}

fn make_ext4(disk: &Path, mib: u64, tree: Option<&Path>) -> Result<()> {
    File::create(disk)?.set_len(mib << 20)?;
    let mut command = Command::new("/sbin/mke2fs");
    command.args(["-q", "-t", "ext4", "-m", "0", "-O", "^has_journal"]);
    if let Some(tree) = tree {
        command.arg("-d").arg(tree);
    }
    run(command.arg(disk))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
