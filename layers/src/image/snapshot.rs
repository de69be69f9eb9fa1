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
//! | intent, layer sealed, no new config | somebody has removed it | an error |
//! | intent, the upper is another one | all was done | intent removed |
//!
//! Invariants
//! - between the moment when the old layer is sealed and that when the new config is in place, on the
//!   device, nobody writes to the disk.
//! - only who has locked the upper of a config makes, finishes or removes an intent.
//! - all this is about the file that a config's name stands for in the end, whatever its spelling.
//!
//! Source: format reference 1.11, 9.1.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::Image;
use super::lower::lower_path;
use super::open::{OpenFailure, check_supported, layer_configs};
use crate::config::ImageConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Access, UpperFile};
use crate::lsmt::upper;

const OP: &str = "take snapshot";
const FINISH: &str = "finish snapshot";

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
        let writable = self.writable()?;
        let _one_at_a_time = writable.hold_layers();
        let (config, new_config) = (real_path(config)?, real_path(new_config)?);
        settle(&new_config)?;
        let old = ImageConfig::load(&config)?;
        let new = ImageConfig::load(&new_config)?;
        check_supported(&new).map_err(OpenFailure::into_error)?;
        let current = writable.upper_path();
        check(current.as_deref(), &old, &new).map_err(|detail| {
            let error = Error::new(ErrorKind::Config, OP, detail);
            error.in_file(name(&new_config))
        })?;
        settle(&new.upper.data)?;
        settle(&new.upper.index)?;
        let intent = Intent::make(&config, &new_config)?;
        let mut is_safe = true;
        let restacked = self.restack_then(&new.upper, &mut || {
            is_safe = replace(&config, &new_config)?;
            Ok(())
        });
        // When it has failed the layer is not sealed.
        if is_safe {
            intent.remove();
        }
        restacked
    }
}

/// Do the configs fit together, and to the layer that is written now, whose data file is `current`?
fn check(
    current: Option<&Path>,
    old: &ImageConfig,
    new: &ImageConfig,
) -> std::result::Result<(), &'static str> {
    if layer_configs(old).is_empty() || !old.upper.is_present() {
        return Err("the disk has no lower, or no writable layer: it cannot be snapshotted");
    }
    if !current.is_some_and(|current| is_same(current, &old.upper.data)) {
        return Err(
            "the config that it is to replace was changed since the disk was opened: the upper there is \
             not the layer that is written now",
        );
    }
    if !new.upper.is_present() {
        return Err("it names no writable layer (upper)");
    }
    let (one, other) = (&new.upper, &old.upper);
    if is_same(&one.data, &other.data) || is_same(&one.index, &other.index) {
        return Err("its upper has a file of the current one: make another with overlaybd-create");
    }
    let top = layer_configs(new).last().and_then(lower_path);
    match top.is_some_and(|top| is_same(&top, &old.upper.data)) {
        true => Ok(()),
        false => Err(
            "its last lower is not the data file of the current upper: what was written \
                      would be missing when the disk is opened again",
        ),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = (one.canonicalize(), other.canonicalize());
    matches!(real, (Ok(one), Ok(other)) if one == other)
}

fn real_path(path: &Path) -> Result<PathBuf> {
    let real = path.canonicalize();
    real.map_err(|error| Error::io(OP, error).in_file(name(path)))
}

/// Brings a file that the caller has made, and its name, to the device.
fn settle(path: &Path) -> Result<()> {
    let fail = |error| Error::io(OP, error).in_file(name(path));
    // Opening a FIFO would wait for its writer.
    if !fs::metadata(path).map_err(fail)?.is_file() {
        let error = Error::new(ErrorKind::Config, OP, "expected a regular file");
        return Err(error.in_file(name(path)));
    }
    let synced = File::open(path).and_then(|file| file.sync_all());
    synced.and_then(|()| sync_directory(path)).map_err(fail)
}

/// Puts the new config, which is on the device, in the old one's place. False when a power cut may undo
/// that: then the intent has to stay.
fn replace(config: &Path, new_config: &Path) -> Result<bool> {
    let fail = |error| Error::io("replace image config", error).in_file(name(config));
    fs::rename(new_config, config).map_err(fail)?;
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
    fn of(config: &Path) -> Self {
        let mut path = config.as_os_str().to_owned();
        path.push(INTENT_SUFFIX);
        Self(path.into())
    }

    fn make(config: &Path, new_config: &Path) -> Result<Self> {
        let Some(new_config) = new_config.to_str() else {
            let error = Error::new(ErrorKind::Config, OP, "its path is not UTF-8");
            return Err(error.in_file(name(new_config)));
        };
        let intent = Self::of(config);
        let path = &intent.0;
        let text = serde_json::json!({ "newConfig": new_config }).to_string();
        let made = fs::write(path, text)
            .and_then(|()| File::open(path)?.sync_all())
            .and_then(|()| sync_directory(path));
        made.map_err(|error| Error::io(OP, error).in_file(name(path)))?;
        Ok(intent)
    }

    /// The new config that it speaks of; `None` for an intent that is not whole, which was never
    /// followed by anything.
    fn read(&self) -> Result<Option<PathBuf>> {
        let fail = |error| Error::io(FINISH, error).in_file(name(&self.0));
        let text = fs::read(&self.0).map_err(fail)?;
        let intent: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        let new_config = intent.get("newConfig").and_then(|path| path.as_str());
        Ok(new_config.map(PathBuf::from))
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
/// `Busy` when the disk is open elsewhere; `NotFound` when the new config is gone; `Io`.
pub(super) fn finish(config: &Path) -> Result<()> {
    // What is wrong with a config is found when it is read.
    let Ok(config) = config.canonicalize() else {
        return Ok(());
    };
    let intent = Intent::of(&config);
    if !intent.0.try_exists().unwrap_or(true) {
        return Ok(());
    }
    let upper = ImageConfig::load(&config)?.upper;
    let _held = match upper.is_present() {
        true => Some(UpperFile::open_locked(&upper.data, Access::Write)?),
        false => None,
    };
    let now = ImageConfig::load(&config)?.upper;
    if (&now.data, &now.index) != (&upper.data, &upper.index) {
        let detail = "in use: a snapshot of the disk is being taken";
        return Err(Error::new(ErrorKind::Busy, FINISH, detail).in_file(name(&config)));
    }
    if let Some(new_config) = intent.read()?
        && upper.is_present()
        && upper::is_sealed_in_place(&upper.data)?
    {
        if !new_config.try_exists().unwrap_or(true) {
            return Err(gone(&config, &new_config, &upper.data));
        }
        log::warn!(
            "{}: the last daemon ended in the middle of a snapshot: goes on with {}",
            name(&config),
            name(&new_config)
        );
        if !replace(&config, &new_config)? {
            return Ok(());
        }
    }
    intent.remove();
    Ok(())
}

fn gone(config: &Path, new_config: &Path, sealed: &Path) -> Error {
    let detail = format!(
        "the last daemon ended in the middle of a snapshot, and the config to go on with is gone: put it \
         back, or write it again, as {} with {} as its last lower and a new, empty upper",
        name(config),
        name(sealed)
    );
    Error::new(ErrorKind::NotFound, FINISH, detail).in_file(name(new_config))
}
