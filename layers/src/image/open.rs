//! Opening an image: all lowers at once, then the stack.
//!
//! image -> **open** -> lower
//!
//! Source: format reference 4.2, 4.3.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Image;
use super::lower::{OpenedLower, open_lower};
use super::remote::{self, Opening, Purpose};
use crate::config::{ImageConfig, LowerConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Access;
use crate::limits::{LAYERS_MAX, PARALLEL_OPENS_MAX};
use crate::lsmt::Layer;
use crate::lsmt::upper::{Upper, open_read_only};
use crate::service::Service;

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

    /// Adds why a remote file could not be read, as the C++ daemon does.
    pub(super) fn with_reason(mut self) -> Self {
        if matches!(self.error.kind(), ErrorKind::Remote(_)) {
            self.message = format!("{}: {}", self.message, remote::reason(&self.error));
        }
        self
    }

    pub(super) fn is_corrupt(&self) -> bool {
        self.error.kind() == ErrorKind::Corrupt
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
    service: &Service,
    access: Access,
    purpose: Purpose,
) -> std::result::Result<Image, OpenFailure> {
    check_supported(config)?;
    // The C++ daemon has no words for an upper that does not open, or a failure to stack.
    let silent = |error| OpenFailure::new(String::new(), error);
    let opening = Opening::new(config, service, purpose).map_err(silent)?;
    let lowers = layer_configs(config);
    let (mut layers, remotes) = Opening::split(open_lowers(&opening, lowers)?);
    let (data, index) = (&config.upper.data, &config.upper.index);
    let mut image = if config.upper.is_present() && access == Access::Write {
        let upper = Upper::open(data, index).map_err(silent)?;
        Image::with_upper(layers, upper).map_err(silent)?
    } else {
        if config.upper.is_present() {
            layers.push(open_read_only(data, index).map_err(silent)?);
        }
        let digest = match (config.upper.is_present(), lowers.last()) {
            (false, Some(top)) => top.digest.as_str(),
            _ => "",
        };
        Image::from_layers(layers, digest).map_err(silent)?
    };
    let below = image.read_only_stack();
    image.background = Some(opening.begin(remotes, below.as_ref()));
    Ok(image)
}

/// Opens the layers of an image without stacking them: the lowers, bottom first, and the writable
/// one, which is only read. Blocking; writes no result file, starts nothing behind it.
///
/// # Errors
/// As [`Image::open`].
pub fn open_apart(config: &ImageConfig, service: &Service) -> Result<(Vec<Layer>, Option<Layer>)> {
    check_supported(config).map_err(OpenFailure::into_error)?;
    let opening = Opening::new(config, service, Purpose::Inspect)?;
    let opened = open_lowers(&opening, layer_configs(config));
    let (lowers, _) = Opening::split(opened.map_err(OpenFailure::into_error)?);
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

/// Does the config ask for nothing that this version cannot do?
pub(super) fn check_supported(config: &ImageConfig) -> std::result::Result<(), OpenFailure> {
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

/// Opens every lower on up to 128 threads. The failure of the lowest layer is reported.
fn open_lowers(
    disk: &Opening<'_>,
    lowers: &[LowerConfig],
) -> std::result::Result<Vec<OpenedLower>, OpenFailure> {
    let next = AtomicUsize::new(0);
    let opened = Mutex::new(Vec::with_capacity(lowers.len()));
    let open_some = || {
        while let Some((number, lower)) = {
            let number = next.fetch_add(1, Ordering::Relaxed);
            lowers.get(number).map(|lower| (number, lower))
        } {
            let layer = open_lower(disk, lower, number);
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
