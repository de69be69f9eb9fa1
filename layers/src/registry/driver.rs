//! The thread on which all requests of a registry client run.
//!
//! registry (caller's threads) -> **driver** -> transfer
//!
//! Invariant: what was given to a driver that has ended is dropped, which whoever waits for it notices.

use std::future::Future;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use crate::error::{Error, Result};

/// Ends the thread, and what still runs on it, when dropped.
#[derive(Debug)]
pub(super) struct Driver {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// # Errors
    /// `Io` when the host has no thread or file descriptors left.
    pub(super) fn start() -> Result<Self> {
        let fail = |error| Error::io("start registry client", error);
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(fail)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("registry".to_owned())
            .spawn(move || drive(runtime, stopped))
            .map_err(fail)?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Runs `work` on the driver's thread.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.handle.spawn(work));
    }
}

fn drive(runtime: Runtime, stopped: oneshot::Receiver<()>) {
    // A sender that was dropped means the same.
    drop(runtime.block_on(stopped));
    // A look-up of a name may take long, and nobody wants it any more.
    runtime.shutdown_background();
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the registry client's thread has failed");
        }
    }
}
