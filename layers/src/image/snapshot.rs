//! A snapshot of a running disk: the writable layer becomes one that is only read, and another takes
//! its place, in the disk and in its config.
//!
//! front ends -> **snapshot** -> image (restack), config file
//!
//! A kill or a power cut may come at any moment. An intent, a file beside the config, is made before
//! the layer is sealed and removed after the config was replaced; whoever opens the config next
//! looks for it and finishes what was begun:
//!
//! | found | means | done |
//! |---|---|---|
//! | intent, layer not sealed | nothing has happened | intent removed |
//! | intent, layer sealed, new config | nothing was written since | the new config takes the old one's place |
//! | intent, no new config | all was done | intent removed |
//!
//! Invariant: between the moment when the old layer is sealed and that when the new config is in
//! place, on the device, nobody writes to the disk.
//!
//! Source: format reference 1.11, 9.1.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Image;
use super::lower::lower_path;
use crate::config::ImageConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::lsmt::upper;

const OP: &str = "take snapshot";

/// Appended to the config's name.
const INTENT_SUFFIX: &str = ".snapshot-intent";

impl Image {
    /// Seals the writable layer and goes on with the one that `new_config` names, which was made
    /// already and is empty; then `new_config` takes the place of `config`, of which the image was
    /// opened. The last lower of `new_config` is the data file of the layer that is sealed. Writers wait
    /// for the moment that the end of it takes; blocks.
    ///
    /// # Errors
    /// `Config` when the configs do not fit together; as [`Image::restack`]; `Io` for the files of the
    /// configs. The disk goes on as it was then.
    pub fn snapshot(&self, config: &Path, new_config: &Path) -> Result<()> {
        let _one_at_a_time = self.writable()?.hold_layers();
        let old = ImageConfig::load(config)?;
        let new = ImageConfig::load(new_config)?;
        check(&old, &new).map_err(|detail| {
            let error = Error::new(ErrorKind::Config, OP, detail);
            error.in_file(new_config.display().to_string())
        })?;
        let intent = Intent::make(config, new_config)?;
        let mut is_safe = true;
        let restacked = self.restack_then(&new.upper, &mut || {
            is_safe = replace(config, new_config)?;
            Ok(())
        });
        // When it has failed the layer is not sealed.
        if is_safe {
            intent.remove();
        }
        restacked
    }
}

/// Do the configs fit together?
fn check(old: &ImageConfig, new: &ImageConfig) -> std::result::Result<(), &'static str> {
    if old.lowers.is_empty() || !old.upper.is_present() {
        return Err("the disk has no lower, or no writable layer: it cannot be snapshotted");
    }
    if !new.upper.is_present() {
        return Err("it names no writable layer (upper)");
    }
    if new.upper.data == old.upper.data || new.upper.index == old.upper.index {
        return Err("its upper has a file of the current one: make another with overlaybd-create");
    }
    let top = new.lowers.last().and_then(lower_path);
    let is_old_data = top.is_some_and(|top| is_same(&top, &old.upper.data).unwrap_or(false));
    match is_old_data {
        true => Ok(()),
        false => Err(
            "its last lower is not the data file of the current upper: what was written \
                      would be missing when the disk is opened again",
        ),
    }
}

fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    Ok(one.canonicalize()? == other.canonicalize()?)
}

/// Puts the new config in the old one's place. False when a power cut may undo that: then the intent
/// has to stay.
fn replace(config: &Path, new_config: &Path) -> Result<bool> {
    let fail = |error| Error::io("replace image config", error).in_file(name(config));
    File::open(new_config)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(new_config, config))
        .map_err(fail)?;
    // There is no way back from here.
    let synced = sync_directory(config);
    if let Err(error) = &synced {
        log::warn!("{}: its directory cannot be flushed: {error}", name(config));
    }
    Ok(synced.is_ok())
}

fn sync_directory(file: &Path) -> io::Result<()> {
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// What is about to be done, on the device.
struct Intent(PathBuf);

impl Intent {
    fn path(config: &Path) -> PathBuf {
        let mut path = config.as_os_str().to_owned();
        path.push(INTENT_SUFFIX);
        path.into()
    }

    fn make(config: &Path, new_config: &Path) -> Result<Self> {
        let path = Self::path(config);
        let new_config = std::path::absolute(new_config).unwrap_or_else(|_| new_config.to_owned());
        let text = serde_json::json!({ "newConfig": new_config }).to_string();
        let made = fs::write(&path, text)
            .and_then(|()| File::open(&path)?.sync_all())
            .and_then(|()| sync_directory(&path));
        made.map_err(|error| Error::io(OP, error).in_file(name(&path)))?;
        Ok(Self(path))
    }

    fn remove(self) {
        if let Err(error) = fs::remove_file(&self.0) {
            log::warn!("{}: not removed: {error}", self.0.display());
        }
    }
}

/// Finishes a snapshot of the disk of `config` that a daemon has begun and not ended. Blocks.
///
/// # Errors
/// `Config` for an intent that makes no sense; `Io`.
pub(super) fn finish(config: &Path) -> Result<()> {
    let path = Intent::path(config);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|error| Error::io("finish snapshot", error).in_file(name(&path)))?,
    };
    let intent: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let new_config = intent.get("newConfig").and_then(|path| path.as_str());
    // One that is not whole was never followed by anything.
    if let Some(new_config) = new_config.map(Path::new) {
        let old = ImageConfig::load(config)?;
        let is_sealed = old.upper.is_present() && upper::is_sealed_in_place(&old.upper.data)?;
        if is_sealed && new_config.try_exists().unwrap_or(true) {
            log::warn!(
                "{}: the last daemon ended in the middle of a snapshot: goes on with {}",
                config.display(),
                new_config.display()
            );
            if !replace(config, new_config)? {
                return Ok(());
            }
        }
    }
    fs::remove_file(&path).map_err(|error| Error::io("finish snapshot", error).in_file(name(&path)))
}
