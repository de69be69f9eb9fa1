//! The file that tells the snapshotter how an open went.
//!
//! Exactly `success`, or `failed:` and a message, no newline. Written before a device shows.
//!
//! Source: format reference 4.3.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::lower::lower_path;
use super::open::OpenFailure;
use crate::config::ImageConfig;
use crate::error::{Error, ErrorKind, Result};

/// Refuses a result file that is the config itself or one of the layers: writing it would destroy
/// them.
///
/// # Errors
/// `Config`.
pub(super) fn check(config_path: &Path, config: &ImageConfig) -> Result<()> {
    let Ok(result_file) = config.result_file.canonicalize() else {
        return Ok(());
    };
    let layers = config.lowers.iter().filter_map(lower_path);
    let upper = [&config.upper.data, &config.upper.index].map(Clone::clone);
    let taken = layers.chain(upper).chain([config_path.to_owned()]);
    for path in taken.filter_map(|path| path.canonicalize().ok()) {
        if path == result_file {
            let detail = "resultFile names this file, which would be overwritten";
            let error = Error::new(ErrorKind::Config, "read image config", detail);
            return Err(error.in_file(path.display().to_string()));
        }
    }
    Ok(())
}

/// Writes the outcome to `path`; nothing when the path is empty.
pub(super) fn write<T>(path: &Path, outcome: &std::result::Result<T, OpenFailure>) -> Result<()> {
    match outcome {
        Ok(_) => write_text(path, "success"),
        Err(failure) => write_text(path, &format!("failed:{}", failure.message())),
    }
}

/// Tells why the image of `config_path` is not even opened. Blocks.
///
/// # Errors
/// As [`ImageConfig::load`]; `Config`, `Io` for the result file.
pub fn refuse(config_path: &Path, message: &str) -> Result<()> {
    let config = ImageConfig::load(config_path)?;
    check(config_path, &config)?;
    write_text(&config.result_file, &format!("failed:{message}"))
}

fn write_text(path: &Path, text: &str) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    // O_NONBLOCK: a FIFO without a reader is an error, not a wait.
    let mut options = File::options();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_NONBLOCK);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|source| {
        Error::io("write result file", source).in_file(path.display().to_string())
    })
}
