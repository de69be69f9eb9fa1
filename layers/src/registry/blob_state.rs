//! What is known about one blob while it is used.
//!
//! transfer -> **blob state** -> repository, route

use std::sync::{Arc, OnceLock};

use url::Url;

use super::failure::{Attempt, Failure};
use super::repository::Repository;
use super::route::Route;
use crate::error::Remote;

/// See the module's description.
#[derive(Debug)]
pub(super) struct BlobState {
    /// At the registry; holds no secrets.
    pub(super) url: Url,
    pub(super) repository: Arc<Repository>,
    pub(super) route: Route,
    size: OnceLock<u64>,
}

impl BlobState {
    pub(super) fn new(url: Url, repository: Arc<Repository>, size: Option<u64>) -> Self {
        Self {
            url,
            repository,
            route: Route::default(),
            size: size.map(OnceLock::from).unwrap_or_default(),
        }
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.size.get().copied()
    }

    /// A server said how large the blob is. Blobs do not change: whoever says otherwise is wrong.
    pub(super) fn learn_size(&self, place: &str, size: u64) -> Attempt<()> {
        let known = *self.size.get_or_init(|| size);
        if known == size {
            return Ok(());
        }
        let words = format!(
            "{place} says the blob has {size} bytes, expected {known} (lowers[].size, if it is given)"
        );
        Err(Failure::new(Remote::BadAnswer, words))
    }
}
