//! Looks every ten seconds whether the cache is within its limits: others fill the disk, too.
//!
//! cache -> **janitor** -> room

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::Cache;

const EVERY: Duration = Duration::from_secs(10);

/// A thread that ends with the cache.
#[derive(Debug, Default)]
pub(super) struct Janitor {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_running: bool,
    is_closed: bool,
}

impl Janitor {
    /// Starts the thread, unless it runs.
    pub(super) fn start(&self, cache: &Arc<Cache>) {
        let mut state = self.shared.lock();
        if state.is_running {
            return;
        }
        let (shared, cache) = (Arc::clone(&self.shared), Arc::downgrade(cache));
        let name = "cache_janitor".to_owned();
        let spawned = std::thread::Builder::new()
            .name(name)
            .spawn(move || shared.run(&cache));
        match spawned {
            Ok(_) => state.is_running = true,
            Err(error) => log::warn!("start thread: {error}; limits are checked at fills only"),
        }
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, cache: &Weak<Cache>) {
        if let Some(cache) = cache.upgrade() {
            cache.room.recount();
        }
        while let Some(cache) = cache.upgrade() {
            cache.refresh_clock();
            cache.room.check();
            drop(cache);
            let state = self.lock();
            if state.is_closed {
                return;
            }
            let waited = self.changed.wait_timeout(state, EVERY);
            if waited.unwrap_or_else(PoisonError::into_inner).0.is_closed {
                return;
            }
        }
    }
}
