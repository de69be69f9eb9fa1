//! Opening an image: all lowers at once, then the stack.
//!
//! image -> **open** -> lower
//!
//! Source: format reference 4.2, 4.3.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Image;
use super::lower::open_lower;
use crate::config::{ImageConfig, LowerConfig, ServiceConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Access;
use crate::limits::{LAYERS_MAX, PARALLEL_OPENS_MAX};
use crate::lsmt::Layer;
use crate::lsmt::upper::{Upper, open_read_only};

/// A failed open: the words for the result file, and the error itself.
#[derive(Debug)]
pub(super) struct OpenFailure {
    message: String,
    error: Error,
}

impl OpenFailure {
    pub(super) fn new(message: String, error: Error) -> Self {
        Self { message, error }
    }

    /// What the C++ daemon would write after `failed:`.
    pub(super) fn message(&self) -> &str {
        &self.message
    }

    pub(super) fn into_error(self) -> Error {
        self.error
    }
}

pub(super) fn open_image(
    config: &ImageConfig,
    _service: &ServiceConfig,
    access: Access,
) -> std::result::Result<Image, OpenFailure> {
    check_supported(config)?;
    let lowers = layer_configs(config);
    let mut layers = open_lowers(config, lowers)?;
    // The C++ daemon has no words for an upper that does not open, or a failure to stack.
    let silent = |error| OpenFailure::new(String::new(), error);
    let (data, index) = (&config.upper.data, &config.upper.index);
    if config.upper.is_present() && access == Access::Write {
        let upper = Upper::open(data, index).map_err(silent)?;
        return Image::with_upper(layers, upper).map_err(silent);
    }
    if config.upper.is_present() {
        layers.push(open_read_only(data, index).map_err(silent)?);
    }
    let digest = match (config.upper.is_present(), lowers.last()) {
        (false, Some(top)) => top.digest.as_str(),
        _ => "",
    };
    Image::from_layers(layers, digest).map_err(silent)
}

/// Opens the layers of an image without stacking them: the lowers, bottom first, and the writable
/// one, which is only read. Blocking; writes no result file.
///
/// # Errors
/// As [`Image::open`].
pub fn open_apart(
    config: &ImageConfig,
    _service: &ServiceConfig,
) -> Result<(Vec<Layer>, Option<Layer>)> {
    let opened = check_supported(config).and_then(|()| open_lowers(config, layer_configs(config)));
    let lowers = opened.map_err(OpenFailure::into_error)?;
    let upper = match config.upper.is_present() {
        true => Some(open_read_only(&config.upper.data, &config.upper.index)?),
        false => None,
    };
    Ok((lowers, upper))
}

/// The lowers that hold data: an acceleration layer on top only carries a trace.
#[must_use]
pub fn layer_configs(config: &ImageConfig) -> &[LowerConfig] {
    match (config.acceleration_layer, config.lowers.split_last()) {
        (true, Some((_trace, lowers))) => lowers,
        _ => &config.lowers,
    }
}

fn check_supported(config: &ImageConfig) -> std::result::Result<(), OpenFailure> {
    let refuse = |kind, detail: &str| {
        Err(OpenFailure::new(
            String::new(),
            Error::new(kind, "open image", detail),
        ))
    };
    let count = layer_configs(config).len();
    if count > LAYERS_MAX {
        return refuse(
            ErrorKind::Config,
            &format!("{count} lowers, at most {LAYERS_MAX} allowed"),
        );
    }
    let upper = &config.upper;
    if count == 0 && !upper.is_present() {
        return refuse(
            ErrorKind::Config,
            "the config names no layer: lowers is empty or absent, and so is upper",
        );
    }
    if upper.is_present() && !(upper.target.as_os_str().is_empty()) {
        let detail = "turboOCI uppers (upper.target) are not supported by this version";
        return refuse(ErrorKind::Unsupported, detail);
    }
    if config.acceleration_layer && !config.record_trace_path.as_os_str().is_empty() {
        let detail = "accelerationLayer and recordTracePath exclude each other";
        return refuse(ErrorKind::Config, detail);
    }
    Ok(())
}

/// Opens every lower on up to 32 threads. The failure of the lowest layer is reported.
fn open_lowers(
    config: &ImageConfig,
    lowers: &[LowerConfig],
) -> std::result::Result<Vec<Layer>, OpenFailure> {
    let next = AtomicUsize::new(0);
    let opened = Mutex::new(Vec::with_capacity(lowers.len()));
    let open_some = || {
        while let Some((number, lower)) = {
            let number = next.fetch_add(1, Ordering::Relaxed);
            lowers.get(number).map(|lower| (number, lower))
        } {
            let layer = open_lower(config, lower, number);
            opened
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push((number, layer));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..lowers.len().min(PARALLEL_OPENS_MAX) {
            // Without this thread the others do its part.
            drop(std::thread::Builder::new().spawn_scoped(scope, open_some));
        }
        open_some();
    });
    let mut opened = opened
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    opened.sort_by_key(|(number, _)| *number);
    opened.into_iter().map(|(_, layer)| layer).collect()
}
