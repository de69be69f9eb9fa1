//! Writers pass, unless somebody closes the gate to seal the layer.
//!
//! image -> **lsmt upper gate**
//!
//! Invariant: between [`Gate::close`] and the end of the value it returns nobody holds a [`Pass`].

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Counts the writers of one image.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    passes: usize,
    closed: bool,
}

/// Leave to write; given back on drop.
#[derive(Debug)]
pub struct Pass(Arc<Gate>);

/// The gate is closed while this lives.
#[derive(Debug)]
pub struct Closed<'a>(&'a Gate);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_while<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        must_wait: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        self.changed
            .wait_while(state, |state| must_wait(state))
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A pass, or `None` while the gate is closed. Does not block.
    pub fn try_enter(self: &Arc<Self>) -> Option<Pass> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        state.passes += 1;
        Some(Pass(Arc::clone(self)))
    }

    /// A pass; blocks while the gate is closed.
    pub fn enter(self: &Arc<Self>) -> Pass {
        let mut state = self.wait_while(self.lock(), |state| state.closed);
        state.passes += 1;
        Pass(Arc::clone(self))
    }

    /// Lets nobody pass any more and waits for those who have.
    pub fn close(&self) -> Closed<'_> {
        let mut state = self.wait_while(self.lock(), |state| state.closed);
        state.closed = true;
        drop(self.wait_while(state, |state| state.passes > 0));
        Closed(self)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.passes -= 1;
        if state.passes == 0 && state.closed {
            self.0.changed.notify_all();
        }
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = false;
        self.0.changed.notify_all();
    }
}
