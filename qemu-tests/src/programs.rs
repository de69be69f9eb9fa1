//! The programs under test: the two daemons, `obd`, `overlaybd-create`, `overlaybd-commit`.
//!
//! Built once per test run by cargo, in the profile of the tests, so that `cargo test` alone
//! always tests the present source. `OBD_PROGRAMS_DIR` names a directory where they were built before.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

/// Where the programs are.
#[derive(Debug)]
pub struct Programs {
    /// `overlaybd-vhost-blk`
    pub daemon: PathBuf,
    /// `obd`
    pub obd: PathBuf,
    /// `overlaybd-create`
    pub create: PathBuf,
    /// `overlaybd-commit`
    pub commit: PathBuf,
    /// `overlaybd-tcmu`
    pub tcmu: PathBuf,
}

impl Programs {
    /// Finds or builds them.
    ///
    /// # Errors
    /// When the build fails, the same for every caller.
    pub fn get() -> Result<&'static Self> {
        static PROGRAMS: OnceLock<Result<Programs, String>> = OnceLock::new();
        PROGRAMS
            .get_or_init(|| Self::locate().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("{error}"))
    }

    fn locate() -> Result<Self> {
        if let Some(dir) = std::env::var_os("OBD_PROGRAMS_DIR") {
            let dir = Path::new(&dir);
            return Ok(Self {
                daemon: dir.join("overlaybd-vhost-blk"),
                obd: dir.join("obd"),
                create: dir.join("overlaybd-create"),
                commit: dir.join("overlaybd-commit"),
                tcmu: dir.join("overlaybd-tcmu"),
            });
        }
        let built: HashMap<String, PathBuf> = build()?.into_iter().collect();
        let find = |name: &str| {
            let path = built.get(name).cloned();
            path.with_context(|| format!("cargo built no {name}"))
        };
        Ok(Self {
            daemon: find("overlaybd-vhost-blk")?,
            obd: find("obd")?,
            create: find("overlaybd-create")?,
            commit: find("overlaybd-commit")?,
            tcmu: find("overlaybd-tcmu")?,
        })
    }
}

/// The root of the workspace.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// One line of cargo's JSON output, as far as it matters here.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

fn build() -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(repository()).stderr(Stdio::inherit());
    cargo.args([
        "build",
        "--quiet",
        "--message-format=json-render-diagnostics",
    ]);
    for name in [
        "overlaybd-vhost-blk",
        "overlaybd-tcmu",
        "obd",
        "overlaybd-create",
        "overlaybd-commit",
    ] {
        cargo.args(["--bin", name]);
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let output = cargo.output().context("run cargo")?;
    ensure!(
        output.status.success(),
        "cargo build of the programs failed: {}",
        output.status
    );
    let lines = String::from_utf8(output.stdout)?;
    let messages = lines
        .lines()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok());
    Ok(messages
        .filter_map(|message| Some((message.target?.name, message.executable?)))
        .collect())
}
