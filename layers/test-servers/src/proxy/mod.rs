//! A proxy in front of a plain-HTTP registry that counts, spoils, slows down and guards.
//!
//! client -> **proxy** -> registry, redirect server
//!
//! It passes GET and HEAD on. Everything about it may be changed while it runs.

mod exchange;
mod fault;
mod shaper;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::Result;

use crate::listener::{Connection, Listener, locked};
use crate::token_server::{State as Tokens, TokenServer};
use shaper::Shaper;

pub use fault::{Fault, Faults};
pub use shaper::Shape;

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    state: Arc<State>,
    listener: Listener,
}

/// What its connections share.
#[derive(Debug)]
struct State {
    upstream: SocketAddr,
    faults: Mutex<Faults>,
    shaper: Shaper,
    gate: Mutex<Option<Gate>>,
    connections: AtomicU64,
    body_bytes: AtomicU64,
    next: AtomicU64,
    log: Mutex<BTreeMap<u64, Exchange>>,
    /// Notified when the log grows.
    came: Condvar,
}

/// Asks for tokens.
#[derive(Debug, Clone)]
struct Gate {
    tokens: Arc<Tokens>,
    realm: String,
}

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// GET or HEAD.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// Was there an `Authorization` header?
    pub authorized: bool,
    /// The `User-Agent` header.
    pub user_agent: Option<String>,
    /// Status of the answer; 0 = there was none.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub body_bytes: u64,
    /// What was made of it.
    pub fault: Option<Fault>,
}

impl Proxy {
    /// Starts on a free port, in front of what listens at `upstream`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(upstream: SocketAddr) -> Result<Self> {
        let state = Arc::new(State {
            upstream,
            faults: Mutex::default(),
            shaper: Shaper::default(),
            gate: Mutex::default(),
            connections: AtomicU64::new(0),
            body_bytes: AtomicU64::new(0),
            next: AtomicU64::new(0),
            log: Mutex::default(),
            came: Condvar::new(),
        });
        let shared = Arc::clone(&state);
        // A connection that ends early is what clients and faults do.
        let handler = move |connection: &Connection| drop(exchange::serve(&shared, connection));
        Ok(Self {
            state,
            listener: Listener::start(Arc::new(handler))?,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    /// Its URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The prefix of a repository's blobs, as `repoBlobUrl` wants it.
    #[must_use]
    pub fn repo_blob_url(&self, repo: &str) -> String {
        format!("{}/v2/{repo}/blobs", self.url())
    }

    /// Goes wrong so from now on.
    pub fn set_faults(&self, faults: Faults) {
        *locked(&self.state.faults) = faults;
    }

    /// Is as slow as this from now on.
    pub fn set_shape(&self, shape: Shape) {
        self.state.shaper.set(shape);
    }

    /// From now on lets only requests pass that have an unexpired token of `tokens`, which must live
    /// at least as long.
    pub fn demand_tokens(&self, tokens: &TokenServer) {
        *locked(&self.state.gate) = Some(Gate {
            tokens: tokens.state(),
            realm: tokens.realm(),
        });
    }

    /// Requests that have come.
    #[must_use]
    pub fn requests(&self) -> usize {
        locked(&self.state.log).len()
    }

    /// Waits until so many requests have come since the last [`Proxy::forget`]; false when they do not
    /// in this time.
    #[must_use]
    pub fn wait_for_requests(&self, count: usize, time: Duration) -> bool {
        let log = locked(&self.state.log);
        let waited = self
            .state
            .came
            .wait_timeout_while(log, time, |log| log.len() < count);
        waited.is_ok_and(|(_, waited)| !waited.timed_out())
    }

    /// Connections that have come.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::Relaxed)
    }

    /// Bytes of bodies that were sent.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.state.body_bytes.load(Ordering::Relaxed)
    }

    /// Every request, oldest first.
    #[must_use]
    pub fn log(&self) -> Vec<Exchange> {
        locked(&self.state.log).values().cloned().collect()
    }

    /// Counts from zero again.
    pub fn forget(&self) {
        locked(&self.state.log).clear();
        self.state.body_bytes.store(0, Ordering::Relaxed);
        self.state.connections.store(0, Ordering::Relaxed);
    }

    /// Stops listening and breaks all connections.
    pub fn stop(&self) {
        self.listener.stop();
    }

    /// Listens on the same port again.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start_again(&self) -> Result<()> {
        self.listener.start_again()
    }
}
