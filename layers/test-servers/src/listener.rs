//! A port of loopback, and a thread for each connection to it.
//!
//! **listener** -> proxy, token server, redirect server
//!
//! Invariant: after [`Listener::stop`] nothing listens, every connection is shut down and every thread
//! has ended. Starting again takes the same port.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Takes what the mutex guards, whatever happened to another thread that held it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a connection does.
pub(crate) type Handler = dyn Fn(&Connection) + Send + Sync;

/// See the module's description.
pub(crate) struct Listener {
    address: SocketAddr,
    handler: Arc<Handler>,
    running: Mutex<Option<Running>>,
}

struct Running {
    open: Arc<Open>,
    accepting: JoinHandle<()>,
}

/// What is open, and whether it should be.
#[derive(Default)]
struct Open {
    stopping: AtomicBool,
    stopped: Mutex<bool>,
    wake: Condvar,
    next: AtomicU64,
    streams: Mutex<HashMap<u64, TcpStream>>,
}

/// One connection of a client.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    open: Arc<Open>,
}

impl Listener {
    /// Listens on a free port.
    pub(crate) fn start(handler: Arc<Handler>) -> Result<Self> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listen on loopback")?;
        let listener = Self {
            address: socket.local_addr()?,
            handler,
            running: Mutex::new(None),
        };
        listener.serve(socket)?;
        Ok(listener)
    }

    /// Where it listens, also while it is stopped.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens on the same port again.
    pub(crate) fn start_again(&self) -> Result<()> {
        self.stop();
        let socket = TcpListener::bind(self.address)
            .with_context(|| format!("listen on {} again", self.address))?;
        self.serve(socket)
    }

    fn serve(&self, socket: TcpListener) -> Result<()> {
        let open = Arc::new(Open::default());
        let handler = Arc::clone(&self.handler);
        let accepted = Arc::clone(&open);
        let accepting = Builder::new()
            .name("accept".to_owned())
            .spawn(move || accept(&socket, &handler, &accepted))?;
        *locked(&self.running) = Some(Running { open, accepting });
        Ok(())
    }

    /// Stops listening and shuts down every connection. Blocks until all threads have ended.
    pub(crate) fn stop(&self) {
        let Some(running) = locked(&self.running).take() else {
            return;
        };
        running.open.stop();
        // The accepting thread looks up when somebody connects.
        drop(TcpStream::connect(self.address));
        drop(running.accepting.join());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.address)
    }
}

fn accept(socket: &TcpListener, handler: &Arc<Handler>, open: &Arc<Open>) {
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    while let Ok((stream, _)) = socket.accept() {
        if open.stopping.load(Ordering::Acquire) {
            break;
        }
        threads.retain(|thread| !thread.is_finished());
        let handler = Arc::clone(handler);
        let connection = Connection {
            stream,
            open: Arc::clone(open),
        };
        let serve = move || {
            if let Ok(_kept) = connection.keep(&connection.stream) {
                handler(&connection);
            }
        };
        threads.extend(Builder::new().name("connection".to_owned()).spawn(serve));
    }
    open.stop();
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

impl Open {
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        *locked(&self.stopped) = true;
        self.wake.notify_all();
        for stream in locked(&self.streams).values() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Connection {
    /// Opens a connection to `address` that ends with the listener.
    pub(crate) fn connect(&self, address: SocketAddr) -> io::Result<(TcpStream, Kept)> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let kept = self.keep(&stream)?;
        Ok((stream, kept))
    }

    /// Has `stream` shut down when the listener stops, until the answer is dropped.
    fn keep(&self, stream: &TcpStream) -> io::Result<Kept> {
        let number = self.open.next.fetch_add(1, Ordering::Relaxed);
        let copy = stream.try_clone()?;
        let mut streams = locked(&self.open.streams);
        if self.open.stopping.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        streams.insert(number, copy);
        Ok(Kept {
            open: Arc::clone(&self.open),
            number,
        })
    }

    /// Waits so long, or until the listener stops.
    pub(crate) fn pause(&self, time: Duration) {
        self.pause_until(Instant::now() + time);
    }

    /// Waits until then, or until the listener stops.
    pub(crate) fn pause_until(&self, end: Instant) {
        let time = end.saturating_duration_since(Instant::now());
        let stopped = locked(&self.open.stopped);
        let waited = self
            .open
            .wake
            .wait_timeout_while(stopped, time, |stopped| !*stopped);
        drop(waited);
    }
}

/// A stream that ends with its listener.
pub(crate) struct Kept {
    open: Arc<Open>,
    number: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        locked(&self.open.streams).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn echo() -> Listener {
        let handler = |connection: &Connection| {
            let mut byte = [0];
            while let Ok(1) = (&connection.stream).read(&mut byte) {
                (&connection.stream).write_all(&byte).unwrap();
            }
        };
        Listener::start(Arc::new(handler)).unwrap()
    }

    #[test]
    fn a_stopped_listener_refuses_and_one_that_is_started_again_answers() {
        let listener = echo();
        let mut first = TcpStream::connect(listener.address()).unwrap();
        first.write_all(b"a").unwrap();
        first.read_exact(&mut [0]).unwrap();
        listener.stop();
        assert_eq!(first.read(&mut [0]).unwrap(), 0, "shut down");
        TcpStream::connect(listener.address()).unwrap_err();

        listener.start_again().unwrap();
        let mut second = TcpStream::connect(listener.address()).unwrap();
        second.write_all(b"b").unwrap();
        second.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn a_pause_ends_when_the_listener_stops() {
        let (started, wait) = std::sync::mpsc::channel();
        let handler = move |connection: &Connection| {
            started.send(()).unwrap();
            connection.pause(Duration::from_secs(3600));
        };
        let listener = Listener::start(Arc::new(handler)).unwrap();
        let _client = TcpStream::connect(listener.address()).unwrap();
        wait.recv().unwrap();
        listener.stop();
    }
}
