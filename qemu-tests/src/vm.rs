//! One virtual machine: qemu without KVM, Debian's kernel, disks over vhost-user-blk or raw files.
//!
//! qemu's file descriptors 0 and 1 are the control socket and the guest's command line: both
//! connected before qemu runs, both closed by its end whatever the reason.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::guest_assets::GuestAssets;
use crate::lab::Lab;
use crate::process::{self, Privilege, Process};
use crate::qmp::Qmp;
use crate::serial::{Running, Serial};

/// A boot takes about 6 seconds on an idle core.
const BOOT_SECONDS: u64 = 120;

/// The default bound of one guest command.
const COMMAND_SECONDS: u64 = 120;

/// Guest memory: the initramfs, a Debian shell and some page cache.
const MEMORY_MIB: u32 = 512;

/// What a machine with a network calls the loopback of this host (qemu's user networking).
pub const HOST_LOOPBACK: &str = "10.0.2.2";

const NO_IO_ERRORS: &str =
    "dmesg >/run/dmesg && ! grep -i -e 'i/o error' -e 'ext4-fs error' /run/dmesg";

/// What a machine is made of, before it is started.
#[derive(Debug)]
pub struct VmBuilder<'lab> {
    lab: &'lab Lab,
    name: String,
    cpus: u32,
    memory_mib: u32,
    assets: Option<&'static GuestAssets>,
    disks: Vec<Disk>,
    has_network: bool,
    kernel_arguments: String,
}

#[derive(Debug)]
enum Disk {
    /// Served by a daemon on this socket.
    Socket(PathBuf),
    /// A raw file, served by qemu.
    Raw { file: PathBuf, keeps_writes: bool },
}

/// A running machine.
#[derive(Debug)]
pub struct Vm<'lab> {
    lab: &'lab Lab,
    process: Process,
    serial: Serial,
    qmp: Qmp,
}

impl Lab {
    /// A machine with two CPUs, no disk and a busybox shell in memory.
    #[must_use]
    pub fn vm(&self, name: &str) -> VmBuilder<'_> {
        VmBuilder {
            lab: self,
            name: format!("vm-{name}"),
            cpus: 2,
            memory_mib: MEMORY_MIB,
            assets: None,
            disks: Vec::new(),
            has_network: false,
            kernel_arguments: "console=ttyS0 panic=1".to_owned(),
        }
    }
}

impl<'lab> VmBuilder<'lab> {
    /// Adds a disk: /dev/vda, /dev/vdb and so on.
    #[must_use]
    pub fn disk(mut self, socket: &Path) -> Self {
        self.disks.push(Disk::Socket(socket.to_owned()));
        self
    }

    /// Adds a raw file as a disk; without `keeps_writes` the file stays as it is.
    #[must_use]
    pub fn raw_disk(mut self, file: &Path, keeps_writes: bool) -> Self {
        self.disks.push(Disk::Raw {
            file: file.to_owned(),
            keeps_writes,
        });
        self
    }

    /// Adds a network card; the loopback of this host is [`HOST_LOOPBACK`] on its network.
    #[must_use]
    pub fn network(mut self) -> Self {
        self.has_network = true;
        self
    }

    /// Boots another kernel and initramfs than the usual guest's.
    #[must_use]
    pub fn assets(mut self, assets: &'static GuestAssets) -> Self {
        self.assets = Some(assets);
        self
    }

    /// Memory of the machine.
    #[must_use]
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.memory_mib = memory_mib;
        self
    }

    /// Adds a word to the kernel command line.
    #[must_use]
    pub fn kernel_argument(mut self, word: &str) -> Self {
        self.kernel_arguments.push(' ');
        self.kernel_arguments.push_str(word);
        self
    }

    /// Makes the first disk the root file system, which is only read: commands run in what is on it.
    #[must_use]
    pub fn root_on_first_disk(mut self) -> Self {
        self.kernel_arguments.push_str(" obd.root=/dev/vda");
        self
    }

    /// As [`VmBuilder::root_on_first_disk`], and the guest may write.
    #[must_use]
    pub fn writable_root_on_first_disk(self) -> Self {
        let mut builder = self.root_on_first_disk();
        builder.kernel_arguments.push_str(" rw");
        builder
    }

    /// Number of virtual CPUs.
    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    /// Starts qemu and waits until the guest takes commands.
    ///
    /// # Errors
    /// When the guest does not boot.
    pub fn boot(self) -> Result<Vm<'lab>> {
        let mut vm = self.start()?;
        vm.wait_until_booted()?;
        Ok(vm)
    }

    /// Starts qemu without waiting for the guest.
    ///
    /// # Errors
    /// When qemu does not start.
    pub fn start(self) -> Result<Vm<'lab>> {
        let (qmp, qemu_qmp) = UnixStream::pair()?;
        let (serial, qemu_serial) = UnixStream::pair()?;
        let mut command = process::command("qemu-system-x86_64", Privilege::Inherited);
        self.describe_machine(&mut command);
        self.describe_guest(&mut command)?;
        for (index, disk) in self.disks.iter().enumerate() {
            match disk {
                Disk::Socket(socket) => describe_socket(&mut command, index, socket),
                Disk::Raw { file, keeps_writes } => {
                    describe_raw_disk(&mut command, index, file, *keeps_writes);
                }
            }
        }
        if self.has_network {
            command.args(["-nic", "user,model=virtio-net-pci"]);
        }
        command
            .stdin(OwnedFd::from(qemu_qmp))
            .stdout(OwnedFd::from(qemu_serial));
        command.stderr(File::create(
            self.lab.log_file(&format!("{}.qemu", self.name)),
        )?);
        let process = Process::start(&self.name, &mut command)?;
        // The parent's copies of qemu's ends go, so that ours are closed when qemu ends.
        drop(command);
        Ok(Vm {
            lab: self.lab,
            process,
            serial: Serial::new(serial),
            qmp: Qmp::negotiate(qmp, self.lab.deadline(BOOT_SECONDS))?,
        })
    }

    fn describe_machine(&self, command: &mut Command) {
        command.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        command.args([
            "-machine",
            "q35,accel=tcg,memory-backend=memory",
            "-cpu",
            "max",
        ]);
        command.args([
            "-smp",
            &self.cpus.to_string(),
            "-m",
            &format!("{}M", self.memory_mib),
        ]);
        let memory = format!(
            "memory-backend-memfd,id=memory,size={}M,share=on",
            self.memory_mib
        );
        command.args(["-object", &memory]);
        command.args([
            "-chardev",
            "socket,id=qmp,fd=0",
            "-mon",
            "chardev=qmp,mode=control",
        ]);
    }

    fn describe_guest(&self, command: &mut Command) -> Result<()> {
        let assets = self.assets.map_or_else(GuestAssets::get, Ok)?;
        command
            .arg("-kernel")
            .arg(&assets.kernel)
            .arg("-initrd")
            .arg(&assets.initramfs);
        command.args(["-append", &self.kernel_arguments]);
        let mut console = OsString::from("file,id=console,append=on,path=");
        console.push(self.lab.log_file(&self.name));
        command
            .arg("-chardev")
            .arg(console)
            .args(["-device", "isa-serial,chardev=console"]);
        command.args([
            "-chardev",
            "socket,id=shell,fd=1",
            "-device",
            "isa-serial,chardev=shell",
        ]);
        Ok(())
    }
}

fn describe_raw_disk(command: &mut Command, index: usize, file: &Path, keeps_writes: bool) {
    let snapshot = if keeps_writes { "off" } else { "on" };
    let mut drive = OsString::from(format!(
        "if=none,id=disk{index},format=raw,discard=unmap,snapshot={snapshot},file="
    ));
    drive.push(file);
    let device = format!("virtio-blk-pci,drive=disk{index}");
    command.arg("-drive").arg(drive).args(["-device", &device]);
}

fn describe_socket(command: &mut Command, index: usize, socket: &Path) {
    let mut chardev = OsString::from(format!("socket,id=disk{index},reconnect=1,path="));
    chardev.push(socket);
    // Without num-queues: as many as the guest has CPUs, or qemu refuses to start.
    let device = format!("vhost-user-blk-pci,chardev=disk{index}");
    command
        .arg("-chardev")
        .arg(chardev)
        .args(["-device", &device]);
}

impl Vm<'_> {
    /// Waits until the guest has booted and takes commands.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_until_booted(&mut self) -> Result<()> {
        self.serial
            .wait_until_ready(self.lab.deadline(BOOT_SECONDS))
    }

    /// Runs a shell command; returns what it printed, trimmed.
    ///
    /// # Errors
    /// When its exit status is not 0 or it does not end in time.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let deadline = self.lab.deadline(COMMAND_SECONDS);
        self.serial.start(command)?.finish(deadline)
    }

    /// As [`Vm::run`], with another bound than two minutes; the lab's own holds as well.
    ///
    /// # Errors
    /// As [`Vm::run`].
    pub fn run_within(&mut self, seconds: u64, command: &str) -> Result<String> {
        let deadline = self.lab.deadline(seconds);
        self.serial.start(command)?.finish(deadline)
    }

    /// Starts a shell command and leaves it running.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn start(&mut self, command: &str) -> Result<Running<'_>> {
        self.serial.start(command)
    }

    /// The guest restarts itself; returns when it takes commands again.
    ///
    /// # Errors
    /// When it does not boot.
    pub fn reboot(&mut self) -> Result<()> {
        self.serial.start("/run/busybox reboot -f")?;
        self.wait_until_booted()
    }

    /// Resets the machine, whatever the guest is doing; returns when it takes commands again.
    ///
    /// # Errors
    /// When it does not boot.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp
            .execute("system_reset", self.lab.deadline(COMMAND_SECONDS))?;
        self.wait_until_booted()
    }

    /// Kills qemu with SIGKILL.
    ///
    /// # Errors
    /// When it had ended by itself.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }

    /// The guest with a writable root disk ends itself in order, as with poweroff(8); its kernel must
    /// not have met an I/O error.
    ///
    /// # Errors
    /// As [`Vm::shut_down`].
    pub fn power_off(mut self) -> Result<()> {
        self.run(NO_IO_ERRORS)?;
        self.run("sync && mount -o remount,ro /")?;
        self.serial.start("/run/busybox poweroff -f")?;
        self.collect()
    }

    /// Ends the machine in order; its kernel must not have met an I/O error.
    ///
    /// # Errors
    /// When the guest's kernel log shows one, or qemu does not end.
    pub fn shut_down(mut self) -> Result<()> {
        self.run(NO_IO_ERRORS)?;
        let deadline = self.lab.deadline(COMMAND_SECONDS);
        self.qmp.execute("quit", deadline)?;
        self.collect()
    }

    fn collect(mut self) -> Result<()> {
        let deadline = self.lab.deadline(COMMAND_SECONDS);
        self.serial.wait_until_closed(deadline)?;
        let status = self.process.collect()?;
        anyhow::ensure!(status.success(), "qemu ended with {status}");
        Ok(())
    }
}
