//! One virtual machine: qemu without KVM, Debian's kernel, disks over vhost-user-blk.
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

const NO_IO_ERRORS: &str =
    "dmesg >/run/dmesg && ! grep -i -e 'i/o error' -e 'ext4-fs error' /run/dmesg";

/// What a machine is made of, before it is started.
#[derive(Debug)]
pub struct VmBuilder<'lab> {
    lab: &'lab Lab,
    name: String,
    cpus: u32,
    sockets: Vec<PathBuf>,
    kernel_arguments: String,
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
            sockets: Vec::new(),
            kernel_arguments: "console=ttyS0 panic=1".to_owned(),
        }
    }
}

impl<'lab> VmBuilder<'lab> {
    /// Adds a disk: /dev/vda, /dev/vdb and so on.
    #[must_use]
    pub fn disk(mut self, socket: &Path) -> Self {
        self.sockets.push(socket.to_owned());
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
        for (index, socket) in self.sockets.iter().enumerate() {
            describe_disk(&mut command, index, socket);
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
            &format!("{MEMORY_MIB}M"),
        ]);
        let memory = format!("memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on");
        command.args(["-object", &memory]);
        command.args([
            "-chardev",
            "socket,id=qmp,fd=0",
            "-mon",
            "chardev=qmp,mode=control",
        ]);
    }

    fn describe_guest(&self, command: &mut Command) -> Result<()> {
        let assets = GuestAssets::get()?;
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

fn describe_disk(command: &mut Command, index: usize, socket: &Path) {
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
