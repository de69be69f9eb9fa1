//! One process: opens its disks, serves each on a thread, ends on a signal.
//!
//! main -> **serve** -> session (one a disk)

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use layers::Service;
use layers::config::ImageConfig;
use layers::log_file::LogOutput;
use layers::socket::{self, SocketFile};
use layers::{Access, ErrorKind, Image};

use crate::args::{Args, DiskArgs};
use crate::cache_switch::CacheSwitch;
use crate::control::Control;
use crate::disk::Disk;
use crate::pool::Pool;
use crate::session::{DRAIN_TIMEOUT, Stopper, serve_connections};

/// Requests that wait for a disk or the network at the same time, in the whole process: 16 that
/// write or flush, 32 that read, and while those are taken 8 that read for each further disk.
const POOL_THREADS_MAX: usize = 48;

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

/// Serves the disks that `args` names until SIGTERM or SIGINT. Blocks. `log_output` is told the log
/// file that the service config names, if it names one.
///
/// # Errors
/// When the log file or an image cannot be opened, a socket not bound, or a disk not served any more.
pub fn run(args: &Args, log_output: &LogOutput) -> Result<(), Error> {
    let service = Service::load_or_default(args.service_config.as_deref())?;
    log_output.use_file_of(&service.config().log)?;
    if args.log_level.is_none() {
        log::set_max_level(service.config().log.filter());
    }
    let wanted = args.disks();
    if let Some(twice) = shared_socket(&wanted) {
        let message = format!("two disks want the same socket {}", twice.display());
        return Err(Error::Io(io::Error::new(io::ErrorKind::AddrInUse, message)));
    }
    let images = wanted
        .into_iter()
        .map(|args| Ok((open(&args, &service)?, args)))
        .collect::<Result<Vec<_>, Error>>()?;
    // While images are opened a signal ends the process at once, from here on in good order.
    let (mut wake, wakers) = UnixStream::pair()?;
    for signal in [libc::SIGTERM, libc::SIGINT] {
        signal_hook::low_level::pipe::register(signal, wakers.try_clone()?)?;
    }
    // A write beyond the limit of file sizes (ulimit -f) then fails like any other; unless somebody
    // listens to this signal it ends the process.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default())?;
    let pool = Arc::new(Pool::new(POOL_THREADS_MAX));
    let disks = images
        .into_iter()
        .map(|(image, args)| OpenDisk::new(image, args, &wakers, &service))
        .collect::<Result<Vec<_>, Error>>()?;
    let told: Vec<_> = disks
        .iter()
        .map(|disk| (disk.args.socket.clone(), Arc::clone(&disk.disk)))
        .collect();
    let control = Control::start(&service, &told)?;

    let (ended, ends) = mpsc::channel();
    let mut stoppers = Vec::new();
    let served: Vec<_> = disks.iter().map(|disk| Arc::clone(&disk.disk)).collect();
    let mut started = Ok(());
    for disk in disks {
        let stopper = Arc::clone(&disk.stopper);
        started = disk.start(&pool, &ended);
        if started.is_err() {
            break;
        }
        stoppers.push(stopper);
    }
    if started.is_ok() {
        wake.read_exact(&mut [0])?;
        log::info!("ending");
    }
    let ended = end(&stoppers, &ends);
    drop(control);
    tell_of_waits(&served);
    ended.and(flush(&served)).and(started)
}

/// How the disks got on whose layers were not on this host.
fn tell_of_waits(disks: &[Arc<Disk>]) {
    for disk in disks {
        if let Some(summary) = disk.metrics().journal().summary() {
            log::info!("{}: {summary}", disk.name());
        }
    }
}

/// Opens the image of a disk, to be written if it can be, unless the operator decides otherwise.
fn open(args: &DiskArgs, service: &Service) -> layers::Result<Image> {
    let access = match args.readonly {
        Some(true) => Access::Read,
        Some(false) | None => Access::Write,
    };
    if args.readonly == Some(false) && !ImageConfig::load(&args.config)?.upper.is_present() {
        let detail = "readonly=off, but the config names no writable layer (upper)";
        let error = layers::Error::new(ErrorKind::Config, "open image", detail);
        return Err(error.in_file(args.config.display().to_string()));
    }
    Image::open(&args.config, service, access)
}

/// What guests wrote is in the files by now; this makes it safe from a power cut. Blocks for the
/// devices.
fn flush(disks: &[Arc<Disk>]) -> Result<(), Error> {
    let mut all_flushed = true;
    for disk in disks.iter().filter(|disk| disk.is_writable()) {
        log::info!("{}: flushing", disk.name());
        if let Err(error) = disk.flush() {
            log::error!("{}: flush failed: {error}", disk.name());
            all_flushed = false;
        }
    }
    if all_flushed {
        Ok(())
    } else {
        let message = "a disk could not be flushed: what was written last may be lost";
        Err(Error::Io(io::Error::other(message)))
    }
}

fn shared_socket(disks: &[DiskArgs]) -> Option<&Path> {
    let sockets = || disks.iter().map(|disk| disk.socket.as_path());
    sockets()
        .enumerate()
        .find_map(|(at, socket)| sockets().take(at).find(|other| *other == socket))
}

/// A disk with everything it takes to serve it.
struct OpenDisk {
    disk: Arc<Disk>,
    listener: UnixListener,
    file: SocketFile,
    args: DiskArgs,
    stopper: Arc<Stopper>,
    /// Ends the process when written to.
    waker: UnixStream,
}

impl OpenDisk {
    fn new(
        image: Image,
        args: DiskArgs,
        wakers: &UnixStream,
        service: &Service,
    ) -> Result<Self, Error> {
        let name = args.socket.display().to_string();
        let identity = || image.identity().to_owned();
        let serial = args.serial.clone().unwrap_or_else(identity);
        let (listener, file) = socket::bind(&args.socket)?;
        let with_name = |error| named(&args.socket, &error);
        let metrics = service.metrics().disk(&name, image.journal());
        let mut disk = Disk::new(image, name, &serial).with_metrics(metrics);
        if disk.is_writable() {
            disk = disk.with_cache_switch(cache_switch(&args.socket));
        }
        Ok(Self {
            stopper: Arc::new(Stopper::new().map_err(with_name)?),
            waker: wakers.try_clone().map_err(with_name)?,
            disk: Arc::new(disk),
            listener,
            file,
            args,
        })
    }

    /// Serves it on a thread of its own.
    fn start(self, pool: &Arc<Pool>, ended: &mpsc::Sender<io::Result<()>>) -> Result<(), Error> {
        let (line, socket) = (self.describe(), self.args.socket.clone());
        let (pool, ended) = (Arc::clone(pool), ended.clone());
        std::thread::Builder::new()
            .name("disk".to_owned())
            .spawn(move || self.run(&pool, &ended))
            .map_err(|error| named(&socket, &error))?;
        log::info!("{line}");
        Ok(())
    }

    fn describe(&self) -> String {
        let image = self.disk.image();
        format!(
            "serving image={} access={} layers={} virtual_size={} socket={} serial={} queues={} \
             threads={}",
            self.args.config.display(),
            if image.is_writable() { "rw" } else { "ro" },
            image.layer_count(),
            image.virtual_size(),
            self.args.socket.display(),
            String::from_utf8_lossy(self.disk.serial()).trim_end_matches('\0'),
            self.args.queues.num_queues,
            self.args.queues.threads,
        )
    }

    fn run(mut self, pool: &Arc<Pool>, ended: &mpsc::Sender<io::Result<()>>) {
        let queues = self.args.queues;
        let result = serve_connections(&self.disk, pool, self.listener, queues, &self.stopper);
        drop(self.file);
        if result.is_err() {
            // One disk that cannot be served ends the process.
            drop(self.waker.write(&[0]));
        }
        drop(ended.send(result));
    }
}

/// The switch that the last daemon left at `socket`.
fn cache_switch(socket: &Path) -> CacheSwitch {
    let switch = CacheSwitch::beside(socket);
    if let Some(file) = switch.file().filter(|_| switch.is_off()) {
        log::warn!(
            "{}: every write is flushed until a guest switches write caching on: there is {}",
            socket.display(),
            file.display()
        );
    }
    switch
}

/// Says which disk an error of the operating system hit.
fn named(socket: &Path, error: &io::Error) -> Error {
    let hint = match error.raw_os_error() {
        Some(libc::EMFILE) => "; raise the limit of open files (ulimit -n)",
        _ => "",
    };
    Error::Io(io::Error::new(
        error.kind(),
        format!("serve {}: {error}{hint}", socket.display()),
    ))
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
