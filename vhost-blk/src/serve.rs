//! One process: opens its disks, serves each on a thread, ends on a signal.
//!
//! main -> **serve** -> session (one a disk)

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use layers::Image;
use layers::config::ServiceConfig;
use log::LevelFilter;

use crate::args::{Args, DiskArgs};
use crate::disk::Disk;
use crate::pool::Pool;
use crate::session::{DRAIN_TIMEOUT, Stopper, serve_connections};
use crate::socket::{self, SocketFile};

/// Reads that wait for a disk or the network at the same time, in the whole process.
const POOL_THREADS_MAX: usize = 32;

/// Time for sessions to end after their requests have been drained.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the process failed.
#[derive(Debug)]
pub enum Error {
    /// An image could not be opened.
    Image(layers::Error),
    /// The operating system refused something; the text says what.
    Io(io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<layers::Error> for Error {
    fn from(error: layers::Error) -> Self {
        Self::Image(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A disk that is ready to be served.
struct OpenDisk {
    disk: Arc<Disk>,
    listener: UnixListener,
    file: SocketFile,
}

/// Serves the disks that `args` names until SIGTERM or SIGINT. Blocks.
///
/// # Errors
/// When an image cannot be opened, a socket not bound, or a disk not served any more.
pub fn run(args: &Args) -> Result<(), Error> {
    // Signals that come from here on end the process in good order.
    let (mut wake, wakers) = UnixStream::pair()?;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        signal_hook::low_level::pipe::register(signal, wakers.try_clone()?)?;
    }
    let service = ServiceConfig::load_or_default(args.service_config.as_deref())?;
    if args.log_level.is_none() {
        log::set_max_level(level(&service));
    }
    let pool = Arc::new(Pool::new(POOL_THREADS_MAX));
    let disks = args
        .disks()
        .iter()
        .map(|args| Ok((args.clone(), open(args, &service)?)))
        .collect::<Result<Vec<_>, Error>>()?;

    let (ended, ends) = mpsc::channel();
    let mut stoppers = Vec::new();
    for (args, open) in disks {
        let stopper = Arc::new(Stopper::new()?);
        stoppers.push(Arc::clone(&stopper));
        let session = Session {
            args,
            open,
            pool: Arc::clone(&pool),
            stopper,
            waker: wakers.try_clone()?,
        };
        let ended = ended.clone();
        std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || session.run(&ended))?;
    }
    wake.read_exact(&mut [0])?;
    log::info!("ending");
    end(&stoppers, &ends)
}

fn level(service: &ServiceConfig) -> LevelFilter {
    match service.log_level {
        0 => LevelFilter::Debug,
        1 => LevelFilter::Info,
        2 => LevelFilter::Warn,
        _ => LevelFilter::Error,
    }
}

fn open(args: &DiskArgs, service: &ServiceConfig) -> Result<OpenDisk, Error> {
    let image = Image::open(&args.config, service)?;
    let identity = || image.identity().to_owned();
    let serial = args.serial.clone().unwrap_or_else(identity);
    let (listener, file) = socket::bind(&args.socket)?;
    log::info!(
        "serving image={} layers={} virtual_size={} socket={} serial={} queues={} threads={}",
        args.config.display(),
        image.layer_count(),
        image.virtual_size(),
        args.socket.display(),
        serial,
        args.queues.num_queues,
        args.queues.threads,
    );
    let name = args.socket.display().to_string();
    Ok(OpenDisk {
        disk: Arc::new(Disk::new(image, name, &serial)),
        listener,
        file,
    })
}

/// What the thread of one disk owns.
struct Session {
    args: DiskArgs,
    open: OpenDisk,
    pool: Arc<Pool>,
    stopper: Arc<Stopper>,
    waker: UnixStream,
}

impl Session {
    fn run(mut self, ended: &mpsc::Sender<io::Result<()>>) {
        let OpenDisk {
            disk,
            listener,
            file,
        } = self.open;
        let result =
            serve_connections(&disk, &self.pool, listener, self.args.queues, &self.stopper);
        drop(file);
        if result.is_err() {
            // One disk that cannot be served ends the process.
            drop(self.waker.write(&[0]));
        }
        drop(ended.send(result));
    }
}

/// Stops all disks, at once if threads can be had, and waits for them, but not for ever: a VMM that does not let go must
/// not keep the process.
fn end(stoppers: &[Arc<Stopper>], ends: &mpsc::Receiver<io::Result<()>>) -> Result<(), Error> {
    let deadline = Instant::now() + DRAIN_TIMEOUT + END_TIMEOUT;
    std::thread::scope(|scope| {
        for stopper in stoppers {
            let thread = std::thread::Builder::new().name("stop".to_owned());
            if thread.spawn_scoped(scope, || stopper.stop()).is_err() {
                stopper.stop();
            }
        }
    });
    for _ in stoppers {
        let left = deadline.saturating_duration_since(Instant::now());
        match ends.recv_timeout(left) {
            Ok(result) => result?,
            Err(_) => {
                log::warn!("a session did not end in time");
                break;
            }
        }
    }
    Ok(())
}
