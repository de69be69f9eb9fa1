//! The file that tells the snapshotter how an open went.
//!
//! Exactly `success`, or `failed:` and a message, no newline. Written before a device shows.
//!
//! Source: format reference 4.3.

use std::path::Path;

use super::open::OpenFailure;
use crate::error::{Error, Result};

/// Writes the outcome to `path`; nothing when the path is empty.
pub(super) fn write<T>(path: &Path, outcome: &std::result::Result<T, OpenFailure>) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let text = match outcome {
        Ok(_) => "success".to_owned(),
        Err(failure) => format!("failed:{}", failure.message()),
    };
    std::fs::write(path, text).map_err(|source| {
        Error::io("write result file", source).in_file(path.display().to_string())
    })
}
