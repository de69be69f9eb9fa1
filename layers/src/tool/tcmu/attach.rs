//! Makes a block device of an image: the steps of the containerd snapshotter, in its order.
//!
//! obd attach -> **attach** -> host
//!
//! - what was made is removed in reverse when a later step fails; what stays is named;
//! - nothing here waits for the daemon without end: the kernel, whose `enable` would, is told not to wait for
//!   answers; how the daemon got on is in a file of its own (`OUTCOMES`).
//!
//! Source: format reference 8.1.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::device::{self, BlockDevice};
use super::host::{self, Host, failed};
use super::names;
use super::waiting::{pause, until};
use crate::config::ImageConfig;
use crate::tcmu_names::{FAILED, OBD_ADAPTER, SUCCESS};
use crate::{Error, ErrorKind, Result};

/// Seconds a command may take before the kernel gives up: never, in effect.
const COMMAND_SECONDS: &str = "2147483";
const AGAIN: Duration = Duration::from_millis(50);
/// Time for a daemon to start.
const DAEMON_WAIT: Duration = Duration::from_secs(2);
const NAA_ATTEMPTS: u32 = 16;

/// How to attach.
#[derive(Debug, Clone)]
pub struct AttachOptions {
    /// Name of the device; none: one that follows from the config's path.
    pub name: Option<String>,
    /// Name that the daemon's API knows it by.
    pub dev_id: Option<String>,
    /// MiB of the area that data of commands passes through.
    pub data_area_mb: u32,
    /// How long all of it may take.
    pub timeout: Duration,
}

/// A device that was made.
#[derive(Debug, Clone)]
pub struct Attached {
    /// Name of the backstore.
    pub name: String,
    /// Config of the image, absolute.
    pub config: PathBuf,
    /// The block device.
    pub block: BlockDevice,
}

/// Attaches the image of `config`. Blocks until its block device is there, or the time is over.
///
/// # Errors
/// Names the step and the file. What was made before is removed again.
pub fn attach(host: &Host, config: &Path, options: &AttachOptions) -> Result<Attached> {
    let config = config
        .canonicalize()
        .map_err(|error| failed("open image config", config, error))?;
    let image = ImageConfig::load(&config)?;
    let dev_config = names::dev_config(&config, options.dev_id.as_deref())?;
    let name = names::device_name(options.name.as_deref(), &config)?;
    let deadline = Instant::now() + options.timeout;
    check_host(host, deadline)?;
    let mut making = Making {
        host,
        deadline,
        undo: Vec::new(),
    };
    let made = making.backstore(&name, &dev_config, options, &image);
    match made.and_then(|core| making.unit(&name, &core)) {
        Ok(block) => Ok(Attached {
            name,
            config,
            block,
        }),
        Err(error) => Err(making.give_up(error, &name)),
    }
}

fn check_host(host: &Host, deadline: Instant) -> Result<()> {
    let refuse = |detail: &str| Err(Error::new(ErrorKind::Config, "attach", detail));
    if !host.target().is_dir() {
        return refuse(
            "/sys/kernel/config/target is missing: \
             mount -t configfs configfs /sys/kernel/config; modprobe -a target_core_user tcm_loop (see `obd doctor`)",
        );
    }
    // It may have been started only just now.
    let daemon_deadline = deadline.min(Instant::now() + DAEMON_WAIT);
    match until(daemon_deadline, || host.daemon()) {
        Some(_) => Ok(()),
        None => refuse(
            "no overlaybd-tcmu serves (nobody has the lock of /run/overlaybd-tcmu.lock): \
             systemctl start overlaybd-tcmu",
        ),
    }
}

enum Undo {
    Dir(PathBuf),
    Link(PathBuf),
}

struct Making<'a> {
    host: &'a Host,
    deadline: Instant,
    undo: Vec<Undo>,
}

impl Making<'_> {
    fn backstore(
        &mut self,
        name: &str,
        dev_config: &str,
        options: &AttachOptions,
        image: &ImageConfig,
    ) -> Result<PathBuf> {
        let host = self.host;
        let hba = host.core().join(OBD_ADAPTER);
        host.keep_dir(
            "make target core (is the module there? modprobe target_core_mod)",
            &host.core(),
        )?;
        host.keep_dir("make host bus adapter (modprobe target_core_user)", &hba)?;
        let core = hba.join(name);
        host.make_dir(&core).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::new(
                ErrorKind::Busy,
                "make device",
                format!("{name} is attached already, or half: obd ls, obd detach {name}, or another --name"),
            ),
            _ => failed("make device", &core, error),
        })?;
        self.undo.push(Undo::Dir(core.clone()));
        let control = core.join("control");
        host.write(
            "set dev_config",
            &control,
            &format!("dev_config={dev_config}"),
        )?;
        let area = format!("max_data_area_mb={}", options.data_area_mb);
        host.write("set size of the data area", &control, &area)?;
        // The kernel keeps all of a ring in memory, 8 MiB unless told otherwise; older ones are not to be told.
        host.write(
            "set size of the command ring",
            &control,
            "cmd_ring_size_mb=1",
        )?;
        // Another TCMU daemon of the host might answer before ours does.
        host.write("wait for no answers", &control, "nl_reply_supported=-1")?;
        let outcome = host.outcome(OBD_ADAPTER, name);
        host::forget("forget an earlier outcome", &outcome)?;
        self.enable(&core)?;
        self.wait_for_daemon(&outcome, &core, image)?;
        let time_out = core.join("attrib/cmd_time_out");
        host.write("set time of commands", &time_out, COMMAND_SECONDS)?;
        Ok(core)
    }

    fn enable(&self, core: &Path) -> Result<()> {
        let path = core.join("enable");
        loop {
            match self.host.try_write(&path, "1") {
                Ok(()) => return Ok(()),
                // While a daemon starts.
                Err(error)
                    if error.raw_os_error() == Some(libc::EAGAIN)
                        && pause(AGAIN, self.deadline) => {}
                Err(error) => return Err(failed("enable device", &path, error)),
            }
        }
    }

    fn wait_for_daemon(&self, outcome: &Path, core: &Path, image: &ImageConfig) -> Result<()> {
        let told = until(self.deadline, || host::read(outcome));
        let refuse = |kind, detail: String| {
            let error = Error::new(kind, "open image", detail);
            Err(error.in_file(core.display().to_string()))
        };
        match told.as_deref() {
            Some(SUCCESS) => Ok(()),
            Some(told) => {
                let reason = told.strip_prefix(FAILED).unwrap_or(told);
                let result = host::read(&image.result_file).unwrap_or_default();
                let result = match result.strip_prefix("failed:") {
                    Some(short) if !short.is_empty() => format!(" ({short})"),
                    _ => String::new(),
                };
                refuse(ErrorKind::Io, format!("the daemon says: {reason}{result}"))
            }
            None => refuse(
                ErrorKind::Busy,
                "no answer of overlaybd-tcmu within --timeout: its log, and `obd doctor`, say more"
                    .to_owned(),
            ),
        }
    }

    /// The logical unit that makes the backstore a disk of this host.
    fn unit(&mut self, name: &str, core: &Path) -> Result<BlockDevice> {
        let host = self.host;
        host.keep_dir("make loopback fabric (modprobe tcm_loop)", &host.loopback())?;
        let (naa, directory) = self.loopback(name)?;
        let group = directory.join("tpgt_1");
        self.make("make target port group", &group)?;
        let unit = group.join("lun/lun_0");
        self.make("make logical unit", &unit)?;
        host.write("make nexus", &group.join("nexus"), &naa)?;
        let link = unit.join(name);
        host.link("link logical unit", core, &link)?;
        self.undo.push(Undo::Link(link));
        let block =
            until(self.deadline, || device::block_of(host, &directory)).ok_or_else(|| {
                let detail = "no block device appeared in time: dmesg, modprobe sd_mod";
                Error::new(ErrorKind::Io, "wait for block device", detail)
                    .in_file(group.display().to_string())
            })?;
        let timeout = host
            .path("/sys/block")
            .join(&block.name)
            .join("device/timeout");
        // The disk shows up under its SCSI address before it does here. Should it never, the write says so.
        until(self.deadline, || timeout.exists().then_some(())).unwrap_or_default();
        host.write("set time of SCSI commands", &timeout, COMMAND_SECONDS)?;
        let node = host.path("/dev").join(&block.name);
        until(self.deadline, || node.exists().then_some(())).ok_or_else(|| {
            let detail = "the kernel has the disk, but the node is missing: is /dev a devtmpfs?";
            Error::new(ErrorKind::NotFound, "wait for block device", detail)
                .in_file(node.display().to_string())
        })?;
        Ok(block)
    }

    fn loopback(&mut self, name: &str) -> Result<(String, PathBuf)> {
        let mut attempt = 0;
        loop {
            let naa = names::naa(name, attempt);
            let directory = self.host.loopback().join(&naa);
            match self.host.make_dir(&directory) {
                Ok(()) => {
                    self.undo.push(Undo::Dir(directory.clone()));
                    return Ok((naa, directory));
                }
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && attempt < NAA_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(error) => return Err(failed("make loopback target", &directory, error)),
            }
        }
    }

    fn make(&mut self, step: &'static str, path: &Path) -> Result<()> {
        self.host
            .make_dir(path)
            .map_err(|error| failed(step, path, error))?;
        self.undo.push(Undo::Dir(path.to_owned()));
        Ok(())
    }

    /// Removes what was made, newest first, and says what stays.
    fn give_up(self, error: Error, name: &str) -> Error {
        for made in self.undo.iter().rev() {
            let (path, done) = match made {
                Undo::Dir(path) => (path, self.host.remove_dir("remove", path)),
                Undo::Link(path) => (path, self.host.unlink("remove", path)),
            };
            if let Err(stays) = done {
                let path = path.display();
                let detail = format!("{error}; and {path} stays ({stays}): obd detach {name}");
                return Error::new(error.kind(), "attach", detail);
            }
        }
        let outcome = self.host.outcome(OBD_ADAPTER, name);
        if host::read(&outcome).is_some_and(|told| told.starts_with(FAILED))
            && let Err(stays) = host::forget("forget the outcome", &outcome)
        {
            log::debug!("{stays}");
        }
        error
    }
}
