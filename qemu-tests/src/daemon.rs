//! One `overlaybd-vhost-blk` process, unprivileged, with its disks.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};

use crate::image::Image;
use crate::lab::Lab;
use crate::process::{self, Privilege, Process};
use crate::programs::Programs;

/// Time for a daemon to open its images and listen, and to end when asked to.
const DAEMON_SECONDS: u64 = 30;

/// A daemon that serves, or is between [`Daemon::kill`] and [`Daemon::start_again`].
#[derive(Debug)]
pub struct Daemon<'lab> {
    lab: &'lab Lab,
    name: String,
    program: PathBuf,
    service_config: Option<PathBuf>,
    disks: Vec<OsString>,
    sockets: Vec<PathBuf>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    process: Process,
    log_lines: Receiver<String>,
    log_copier: JoinHandle<std::io::Result<()>>,
}

impl Lab {
    /// Starts a daemon with one disk per image and waits until it listens on all sockets.
    ///
    /// # Errors
    /// When it ends or does not name every socket in its log in time.
    pub fn start_daemon(&self, name: &str, images: &[&Image]) -> Result<Daemon<'_>> {
        self.start_daemon_on(None, name, images)
    }

    /// As [`Lab::start_daemon`], with the settings of a host.
    ///
    /// # Errors
    /// As [`Lab::start_daemon`].
    pub fn start_daemon_on(
        &self,
        service_config: Option<&Path>,
        name: &str,
        images: &[&Image],
    ) -> Result<Daemon<'_>> {
        // A copy, because the build directory may be closed to other users.
        let program = self.dir().join(format!("{name}.daemon"));
        std::fs::copy(&Programs::get()?.daemon, &program)?;
        let mut daemon = Daemon {
            lab: self,
            name: format!("daemon-{name}"),
            program,
            service_config: service_config.map(Path::to_owned),
            disks: Vec::new(),
            sockets: Vec::new(),
            running: None,
        };
        for (index, image) in images.iter().enumerate() {
            let socket = self.socket(&format!("{name}-{index}"));
            let mut disk = OsString::from("config=");
            disk.push(&image.config);
            disk.push(",socket=");
            disk.push(&socket);
            daemon.disks.push(disk);
            daemon.sockets.push(socket);
        }
        daemon.start_again()?;
        Ok(daemon)
    }
}

impl Daemon<'_> {
    /// The socket of disk `index`.
    ///
    /// # Errors
    /// When there is no such disk.
    pub fn socket(&self, index: usize) -> Result<&Path> {
        self.sockets
            .get(index)
            .map(PathBuf::as_path)
            .context("no such disk")
    }

    /// The user it runs as: never root.
    ///
    /// # Errors
    /// When it does not run.
    pub fn user_id(&self) -> Result<u32> {
        let running = self.running.as_ref().context("the daemon does not run")?;
        running.process.user_id()
    }

    /// Starts it after [`Daemon::kill`] and waits until it listens again.
    ///
    /// # Errors
    /// As [`Lab::start_daemon`].
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.running.is_none(), "{} runs already", self.name);
        let (log_end, daemon_end) = UnixStream::pair()?;
        let mut command = process::command(&self.program, Privilege::None);
        if let Some(path) = &self.service_config {
            command.arg("--service-config").arg(path);
        }
        for disk in &self.disks {
            command.arg("--disk").arg(disk);
        }
        command
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.stderr(OwnedFd::from(daemon_end));
        let process = Process::start(&self.name, &mut command)?;
        // The parent's copy of the daemon's end goes, so that the log ends when the daemon does.
        drop(command);
        let log_path = self.lab.log_file(&self.name);
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_path)?;
        let (sender, log_lines) = mpsc::channel();
        let log_copier = std::thread::spawn(move || copy_lines(log_end, log, &sender));
        self.running
            .insert(Running {
                process,
                log_lines,
                log_copier,
            })
            .wait_for(&self.sockets, self.lab, &self.name)
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        self.running
            .take()
            .context("the daemon does not run")?
            .process
            .kill()
    }

    /// Asks it to end with SIGTERM; it must end with exit status 0.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(mut self) -> Result<()> {
        let mut running = self.running.take().context("the daemon does not run")?;
        running.process.terminate()?;
        let deadline = self.lab.deadline(DAEMON_SECONDS);
        let what = format!("{} to end after SIGTERM", self.name);
        while running
            .log_lines
            .recv_timeout(deadline.remaining(&what)?)
            .is_ok()
        {}
        // Either the log has ended or the deadline has passed, which the next line tells.
        deadline.remaining(&what)?;
        let status = running.process.collect()?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        let copied = running.log_copier.join();
        copied
            .map_err(|_| anyhow!("the log copier panicked"))?
            .context("copy the log")
    }
}

impl Running {
    /// Waits until each of `sockets` was named in the log.
    fn wait_for(&self, sockets: &[PathBuf], lab: &Lab, name: &str) -> Result<()> {
        let deadline = lab.deadline(DAEMON_SECONDS);
        let mut awaited: Vec<String> = sockets
            .iter()
            .map(|socket| socket.display().to_string())
            .collect();
        while !awaited.is_empty() {
            let left = deadline.remaining(&format!("{name} to listen on {awaited:?}"))?;
            match self.log_lines.recv_timeout(left) {
                Ok(line) => awaited.retain(|socket| !line.contains(socket.as_str())),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(anyhow!("{name} ended before it listened on {awaited:?}"));
                }
            }
        }
        Ok(())
    }
}

/// Writes every line to the log file before it announces it.
fn copy_lines(
    from: UnixStream,
    mut log: File,
    lines: &mpsc::Sender<String>,
) -> std::io::Result<()> {
    for line in BufReader::new(from).split(b'\n') {
        let line = line?;
        log.write_all(&line)?;
        log.write_all(b"\n")?;
        // Nobody listens once the daemon has started.
        drop(lines.send(String::from_utf8_lossy(&line).into_owned()));
    }
    Ok(())
}
