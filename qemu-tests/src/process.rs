//! A child process that never outlives the test.
//!
//! Invariants
//! - dropping kills it and collects it, by its own id;
//! - the kernel kills it when the thread that started it ends, so that a killed test run leaves
//!   nothing either: start processes from the test's own thread.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context, Result};

/// User and group "nobody" and "nogroup" of Debian.
pub const UNPRIVILEGED_ID: u32 = 65534;

/// As whom a child runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// As the test itself.
    Inherited,
    /// When the test is root: as nobody, without any capability.
    None,
}

/// A command that runs under `setpriv(1)`, which arranges for its end and its rights.
#[must_use]
pub fn command(program: impl AsRef<OsStr>, privilege: Privilege) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]);
    if privilege == Privilege::None && is_root() {
        let id = UNPRIVILEGED_ID.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        command.args(["--no-new-privs", "--bounding-set=-all"]);
    }
    command.arg("--").arg(program);
    command
}

/// True when the test runs as root.
#[must_use]
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `command`; `name` is for messages.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.spawn().with_context(|| format!("start {name}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The user it runs as.
    ///
    /// # Errors
    /// When it has ended.
    pub fn user_id(&self) -> Result<u32> {
        Ok(std::fs::metadata(format!("/proc/{}", self.id()))?.uid())
    }

    /// Kills it with SIGKILL and collects it.
    ///
    /// # Errors
    /// When it had ended before by itself, or cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("kill {}", self.name))?;
        let status = self.child.wait()?;
        anyhow::ensure!(
            status.signal() == Some(9),
            "{} had ended before: {status}",
            self.name
        );
        Ok(())
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn terminate(&self) -> Result<()> {
        let status = Command::new("kill")
            .args(["-TERM", &self.id().to_string()])
            .status()?;
        anyhow::ensure!(status.success(), "SIGTERM to {}: {status}", self.name);
        Ok(())
    }

    /// Collects a child that has closed its output and so is about to end.
    ///
    /// # Errors
    /// From the operating system.
    pub fn collect(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that was collected before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
