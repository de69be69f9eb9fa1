//! Why one attempt did not bring what was asked for.
//!
//! transport, repository, answer -> **failure** -> retry -> [`Error`]
//!
//! Invariant: the words hold no secrets; whoever makes them shows URLs through `redact` only.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Remote};

/// Can be told to everybody who waited for the same thing.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) words: String,
    /// The server asked to be left alone for so long.
    pub(super) retry_after: Option<Duration>,
}

pub(super) type Attempt<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(super) fn new(kind: Remote, words: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Remote(kind),
            words: words.into(),
            retry_after: None,
        }
    }

    pub(super) fn out_of_range(end: u64, size: u64) -> Self {
        Self {
            kind: ErrorKind::OutOfRange,
            words: format!("the range ends at byte {end}, the blob has {size}"),
            retry_after: None,
        }
    }

    /// May the same question get another answer a moment later?
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Remote(kind) if kind.is_transient())
    }

    pub(super) fn into_error(self, op: &'static str, blob: &str, at: u64) -> Error {
        Error::new(self.kind, op, self.words).in_file(blob).at(at)
    }
}
