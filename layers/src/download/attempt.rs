//! One attempt at one layer: claim, fill, check, publish, switch.
//!
//! worker -> **attempt** -> fill, partial file, switch
//!
//! Source: format reference 4.4.

use super::fill::{Fill, Trust};
use super::pace::Pace;
use super::partial_file::{Claim, PartialFile, whole_path};
use super::{RemoteLayer, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::io::LocalFile;
use crate::read_at::ReadAt;

const OP: &str = "download layer";

/// How an attempt ended, unless it failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The disk reads the layer's own file, which this download made.
    Downloaded,
    /// The disk reads the layer's own file, which somebody else made.
    Found,
    /// Somebody else is at it.
    Taken,
    /// The download is to end.
    Stopped,
    /// All bytes came, and they are not the layer: what was found instead.
    WrongDigest(String),
}

/// A layer on its way, from attempt to attempt.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) layer: RemoteLayer,
    trust: Trust,
    /// The partial file is of this download's making, and goes when it cannot be finished.
    is_ours: bool,
}

impl Job {
    pub(super) fn new(layer: RemoteLayer) -> Self {
        Self {
            layer,
            trust: Trust::Local,
            is_ours: false,
        }
    }

    /// # Errors
    /// Those of the layer's directory, and of the source. The disk goes on as before.
    pub(super) fn attempt(
        &mut self,
        shared: &Shared,
        pace: &mut Pace,
        buf: &mut [u8],
    ) -> Result<Outcome> {
        if self.switch_if_whole()? {
            return Ok(Outcome::Found);
        }
        check_digest(&self.layer.digest)?;
        let layer = &self.layer;
        let claim = PartialFile::claim(&layer.dir, layer.size, layer.cache_is_beside)?;
        let partial = match claim {
            Claim::Mine(partial) => partial,
            Claim::Taken if self.switch_if_whole()? => return Ok(Outcome::Found),
            Claim::Taken => return Ok(Outcome::Taken),
        };
        self.is_ours |= partial.is_new;
        let mut fill = Fill {
            layer: &self.layer,
            partial: &partial,
            trust: self.trust,
            shared,
            pace,
            buf,
        };
        let filled = fill.run();
        if shared.clock.is_stopped() {
            return Ok(Outcome::Stopped);
        }
        if let Err(error) = filled {
            if error.kind() == ErrorKind::NoSpace && self.is_ours {
                partial.remove();
            }
            return Err(error);
        }
        self.finish(partial, shared)
    }

    fn finish(&mut self, partial: PartialFile, shared: &Shared) -> Result<Outcome> {
        let Some(digest) = partial.digest(|| !shared.clock.is_stopped())? else {
            return Ok(Outcome::Stopped);
        };
        if !digest.eq_ignore_ascii_case(&self.layer.digest) {
            // Nobody can tell which of the bytes are wrong.
            partial.remove();
            self.trust = Trust::Origin;
            return Ok(Outcome::WrongDigest(digest));
        }
        partial.publish()?;
        match self.switch_if_whole()? {
            true => Ok(Outcome::Downloaded),
            false => Ok(Outcome::Taken),
        }
    }

    /// Lets the disk read the layer's own file, if there is one.
    ///
    /// # Errors
    /// `Config` if it cannot be the layer; `Io`.
    fn switch_if_whole(&self) -> Result<bool> {
        let path = whole_path(&self.layer.dir);
        let file = match LocalFile::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if file.size() != self.layer.size {
            let (found, wanted) = (file.size(), self.layer.size);
            let detail = format!(
                "it has {found} bytes, the layer {wanted}: remove it if nothing is writing it"
            );
            return Err(
                Error::new(ErrorKind::Corrupt, OP, detail).in_file(path.display().to_string())
            );
        }
        self.layer.switch.switch_to(file);
        Ok(true)
    }
}

/// Bytes that cannot be checked are not downloaded.
fn check_digest(digest: &str) -> Result<()> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(());
    }
    let detail = "expected a digest of sha256: and 64 hexadecimal digits";
    Err(Error::new(ErrorKind::Unsupported, OP, detail).in_file(digest))
}
