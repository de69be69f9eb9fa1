//! One lower's pipeline: find its file, look through the wrappers, read its LSMT structures.
//!
//! image -> **lower** (at open) -> lsmt -> zfile -> tar -> io
//!
//! Every input goes through the same detection, in this order: tar, zfile, LSMT.
//!
//! Source: format reference 3.1 (detection order), 4.1 (names), 4.2 (which path wins), 4.3 (the
//! words of the result file).

use std::path::PathBuf;

use super::open::OpenFailure;
use crate::config::{ImageConfig, LowerConfig};
use crate::error::{Error, ErrorKind};
use crate::io::LocalFile;
use crate::lsmt::Layer;
use crate::{tar, zfile};

/// Names a layer may have in its directory, first match wins.
const NAMES: [&str; 3] = ["overlaybd.commit", ".commit", "overlaybd.sealed"];

/// Opens lower number `number` (0 = bottom).
pub(super) fn open_lower(
    config: &ImageConfig,
    lower: &LowerConfig,
    number: usize,
) -> std::result::Result<Layer, OpenFailure> {
    if !lower.target_file.as_os_str().is_empty() || !lower.target_digest.is_empty() {
        let detail = "turboOCI layers (targetFile, targetDigest) are not supported by this version";
        let error = Error::new(ErrorKind::Unsupported, "open layer", detail);
        return Err(OpenFailure::new(
            format!("failed to open layer {number}"),
            error,
        ));
    }
    let Some(path) = lower_path(lower) else {
        return Err(not_local(config, lower, number));
    };
    let shown = path.display();
    let file = LocalFile::open(&path)
        .map_err(|error| OpenFailure::new(format!("failed to open local file {shown}"), error))?;
    let payload = tar::unwrap(Box::new(file)).map_err(|error| {
        OpenFailure::new(format!("failed to open file as tar file {shown}"), error)
    })?;
    let switch = |error| OpenFailure::new(format!("failed to open switch file {shown}"), error);
    Layer::open(zfile::unwrap(payload).map_err(switch)?)
        .map_err(|error| OpenFailure::new(format!("failed to open layer {number}"), error))
}

/// The first of the lower's local files that exists, or that may exist where it cannot be seen.
#[must_use]
pub fn lower_path(lower: &LowerConfig) -> Option<PathBuf> {
    let named = (!lower.file.as_os_str().is_empty()).then(|| lower.file.clone());
    let has_dir = !lower.dir.as_os_str().is_empty();
    let in_dir = NAMES
        .iter()
        .filter(|_| has_dir)
        .map(|name| lower.dir.join(name));
    named
        .into_iter()
        .chain(in_dir)
        .find(|path| path.try_exists().unwrap_or(true))
}

fn not_local(config: &ImageConfig, lower: &LowerConfig, number: usize) -> OpenFailure {
    let nothing = lower.file.as_os_str().is_empty() && lower.dir.as_os_str().is_empty();
    let missing = if nothing {
        format!("lowers[{number}] names neither file nor dir")
    } else if lower.dir.as_os_str().is_empty() {
        format!("lowers[{number}].file {:?} does not exist", lower.file)
    } else {
        let (file, dir) = (&lower.file, &lower.dir);
        format!("neither lowers[{number}].file {file:?} nor a layer in dir {dir:?} exists")
    };
    let fail = |message: String, kind, detail: String| {
        OpenFailure::new(message, Error::new(kind, "open layer", detail))
    };
    if lower.digest.is_empty() {
        return fail(
            format!("failed to open layer {number}"),
            ErrorKind::NotFound,
            missing,
        );
    }
    if config.repo_blob_url.is_empty() {
        let detail = format!("{missing}, and repoBlobUrl is empty");
        return fail("empty repoBlobUrl".to_owned(), ErrorKind::NotFound, detail);
    }
    let url = format!(
        "/{}/{}",
        config.repo_blob_url.trim_end_matches('/'),
        lower.digest
    );
    let detail = format!("{missing}, and layers in a registry are not supported by this version");
    let message = format!("failed to open remote file {url}: Function not implemented");
    fail(message, ErrorKind::Unsupported, detail)
}
