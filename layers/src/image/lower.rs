//! One lower's pipeline: find its file, look through the wrappers, read its LSMT structures.
//!
//! image -> **lower** (at open) -> lsmt -> zfile -> tar -> cache | io
//!
//! Every input goes through the same detection, in this order: tar, zfile, LSMT.
//!
//! Source: format reference 3.1 (detection order), 4.1 (names), 4.2 (which path wins), 4.3 (the
//! words of the result file).

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::open::OpenFailure;
use super::remote::{self, Opening};
use crate::config::{ImageConfig, LowerConfig};
use crate::dest::Dest;
use crate::download::{RemoteLayer, Switch};
use crate::error::{Error, ErrorKind, Result};
use crate::io::LocalFile;
use crate::lsmt::Layer;
use crate::read_at::{Progress, ReadAt, Wait};
use crate::{tar, zfile};

/// A lower that is open.
pub(super) struct OpenedLower {
    pub(super) layer: Layer,
    /// Set when it came from a registry.
    pub(super) remote: Option<RemoteLayer>,
}

/// Names a layer may have in its directory, first match wins.
const NAMES: [&str; 3] = ["overlaybd.commit", ".commit", "overlaybd.sealed"];

/// Opens lower number `number` (0 = bottom).
pub(super) fn open_lower(
    disk: &Opening<'_>,
    lower: &LowerConfig,
    number: usize,
) -> std::result::Result<OpenedLower, OpenFailure> {
    if !lower.target_file.as_os_str().is_empty() || !lower.target_digest.is_empty() {
        let detail = "turboOCI layers (targetFile, targetDigest) are not supported by this version";
        let error = Error::new(ErrorKind::Unsupported, "open layer", detail);
        return Err(OpenFailure::new(
            format!("failed to open layer {number}"),
            error,
        ));
    }
    let Some(path) = lower_path(lower) else {
        return open_remote(disk, lower, number);
    };
    let shown = path.display();
    let file = LocalFile::open(&path)
        .map_err(|error| OpenFailure::new(format!("failed to open local file {shown}"), error))?;
    let words = Words {
        tar: format!("failed to open file as tar file {shown}"),
        zfile: format!("failed to open switch file {shown}"),
    };
    let (layer, _) = open_blob(disk, Box::new(file), number, words)?;
    Ok(OpenedLower {
        layer,
        remote: None,
    })
}

fn open_remote(
    disk: &Opening<'_>,
    lower: &LowerConfig,
    number: usize,
) -> std::result::Result<OpenedLower, OpenFailure> {
    let url = blob_url(disk.config, lower, number)?;
    let fail = |error: Error| {
        let reason = remote::reason(&error);
        let message = format!("failed to open remote file /{url}: {reason}");
        OpenFailure::new(message, error)
    };
    let remote = disk.open_remote(lower).map_err(fail)?;
    let open = || {
        let words = Words {
            tar: format!("failed to open remote file as tar file /{url}"),
            zfile: format!("failed to open switch file /{url}"),
        };
        let blob = Box::new(Arc::clone(&remote.switch));
        open_blob(disk, blob, number, words).map_err(OpenFailure::with_reason)
    };
    let (layer, is_checked) = match open() {
        // What tells where the data is may have been damaged on its way.
        Err(failure) if failure.is_corrupt() => {
            distrust_structures(&remote.switch);
            // Also when nothing was dropped: another disk may have done so a moment ago.
            open()
        }
        other => other,
    }?;
    if !is_checked {
        remote.cached.check_every_read();
    }
    Ok(OpenedLower {
        layer,
        remote: Some(remote),
    })
}

/// Drops what is read while a layer is opened, and no more of it.
fn distrust_structures(switch: &Arc<Switch>) {
    let read = Arc::new(Mutex::default());
    let noted = Noted {
        blob: Arc::clone(switch),
        read: Arc::clone(&read),
    };
    let opened = tar::unwrap(Box::new(noted))
        .and_then(zfile::unwrap)
        .and_then(Layer::open);
    if opened.is_err() {
        let read = read.lock().unwrap_or_else(PoisonError::into_inner);
        for range in &*read {
            switch.distrust(range.start, range.end - range.start);
        }
    }
}

/// A blob, and what is read of it.
#[derive(Debug)]
struct Noted {
    blob: Arc<Switch>,
    read: Arc<Mutex<Vec<Range<u64>>>>,
}

impl ReadAt for Noted {
    fn size(&self) -> u64 {
        self.blob.size()
    }

    fn name(&self) -> &str {
        self.blob.name()
    }

    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        let end = offset.saturating_add(dest.len() as u64);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        match read.last_mut() {
            Some(last) if last.end == offset => last.end = end,
            _ => read.push(offset..end),
        }
        drop(read);
        self.blob.read_at(offset, dest, wait)
    }
}

/// What the result file says when a wrapper cannot be opened.
struct Words {
    tar: String,
    zfile: String,
}

/// Looks through the wrappers of a blob. True with a layer that checks its own bytes.
fn open_blob(
    disk: &Opening<'_>,
    blob: Box<dyn ReadAt>,
    number: usize,
    words: Words,
) -> std::result::Result<(Layer, bool), OpenFailure> {
    let payload = tar::unwrap(blob).map_err(|error| OpenFailure::new(words.tar, error))?;
    let decoded = zfile::unwrap(payload).map_err(|error| OpenFailure::new(words.zfile, error))?;
    let is_checked = decoded.is_checked();
    let decoded = disk.prefetch.watch(number, decoded);
    Layer::open(decoded)
        .map(|layer| (layer, is_checked))
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

/// The URL of a layer that is not on this host.
fn blob_url(
    config: &ImageConfig,
    lower: &LowerConfig,
    number: usize,
) -> std::result::Result<String, OpenFailure> {
    let nothing = lower.file.as_os_str().is_empty() && lower.dir.as_os_str().is_empty();
    let missing = if nothing {
        format!("lowers[{number}] names neither file nor dir")
    } else if lower.dir.as_os_str().is_empty() {
        format!("lowers[{number}].file {:?} does not exist", lower.file)
    } else {
        let (file, dir) = (&lower.file, &lower.dir);
        format!("neither lowers[{number}].file {file:?} nor a layer in dir {dir:?} exists")
    };
    let fail = |message: String, detail: String| {
        OpenFailure::new(
            message,
            Error::new(ErrorKind::NotFound, "open layer", detail),
        )
    };
    if lower.digest.is_empty() {
        let message = format!("failed to open layer {number}");
        return Err(fail(message, missing));
    }
    if config.repo_blob_url.is_empty() {
        let detail = format!("{missing}, and repoBlobUrl is empty");
        return Err(fail("empty repoBlobUrl".to_owned(), detail));
    }
    let prefix = config.repo_blob_url.trim_end_matches('/');
    Ok(format!("{}/{}", without_user(prefix), lower.digest))
}

/// The URL without a user name and password, which the client refuses: the result file is for everybody.
fn without_user(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host_end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(host_end);
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_a_url_are_left_out() {
        let shown = without_user("https://user:se@cret@r.example:5000/v2/x/blobs");
        assert_eq!(shown, "https://r.example:5000/v2/x/blobs");
        let plain = "http://r.example/v2/x@y/blobs";
        assert_eq!(without_user(plain), plain);
    }
}
