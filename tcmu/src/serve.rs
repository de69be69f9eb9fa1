//! One process for the host: takes up what is there, then follows the kernel until a signal.
//!
//! main -> **serve** -> adopt, devices, netlink
//!
//! Source: format reference 8.3, 8.6; sd_notify(3).

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use layers::Service;
use layers::config::ServiceConfig;
use layers::log_file::LogOutput;
use layers::tcmu_names::DAEMON_LOCK;
use rustix::process::{Resource, Rlimit};
use sd_notify::NotifyState;

use crate::adopt;
use crate::args::Args;
use crate::backstore::Backstore;
use crate::control::Control;
use crate::device::Device;
use crate::devices::Devices;
use crate::error::Error;
use crate::netlink::{Event, EventKind, Netlink};
use crate::netlink_gate::NetlinkGate;
use crate::outcome;
use crate::uio;
use crate::workers::Workers;

/// Devices that are made or removed at the same time.
const OPENERS_MAX: usize = 32;

/// How often the end of the process is looked for while no event comes.
const EVENT_WAIT: Duration = Duration::from_millis(500);

/// At the end, time for commands that are under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the daemon before to be gone.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Files that the process wants to have open at most.
const FILES_WANTED: u64 = 1 << 20;

/// Serves the host's devices until SIGTERM or SIGINT. Blocks. `log_output` is told the log file that the
/// config names.
///
/// # Errors
/// When the config or log file is no good, another daemon runs, or the kernel has no TCMU.
pub fn run(args: &Args, log_output: &LogOutput) -> Result<(), Error> {
    let config = ServiceConfig::load_for_host(args.config.as_deref())?;
    log_output.use_file_of(&config.log)?;
    if args.log_level.is_none() {
        log::set_max_level(config.log.filter());
    }
    let _lock = lock()?;
    raise_file_limit();
    let (mut wake, waker) = UnixStream::pair().map_err(|error| Error::io("make socket", error))?;
    register_signals(&waker).map_err(|error| Error::io("handle signals", error))?;

    let service = Service::new(config);
    let devices = Arc::new(Devices::new(service.clone(), args.config.clone()));
    // From here on no event is missed.
    let netlink = Arc::new(Netlink::open()?);
    take_up_what_is_there(&netlink, &devices)?;
    let control = Control::start(&service, &devices)?;
    let follower = Follower::start(netlink, &devices)?;
    notify(NotifyState::Ready);
    log::info!("ready; {} devices", devices.all().len());

    wake.read_exact(&mut [0])
        .map_err(|error| Error::io("wait for a signal", error))?;
    log::info!("ending; the devices stay, and wait for the next daemon");
    notify(NotifyState::Stopping);
    follower.stop();
    drop(control);
    end(&devices.all());
    Ok(())
}

/// Makes sure that this is the only daemon of the host, and tells others that there is one. Who looks
/// whether there is one holds the lock for a moment.
fn lock() -> Result<File, Error> {
    let path = Path::new(DAEMON_LOCK);
    let fail = |error| Error::file("open lock", path, error);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(fail)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(fail(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(Error::AlreadyRunning(path.display().to_string()));
            }
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOCK_WAIT / 100),
        }
    }
    let written = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| Error::file("write lock", path, error))?;
    Ok(file)
}

fn raise_file_limit() {
    let now = rustix::process::getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= FILES_WANTED);
    if enough(now.current) {
        return;
    }
    let most = match enough(now.maximum) {
        true => now.maximum,
        false => Some(FILES_WANTED),
    };
    let limit = |most| Rlimit {
        current: most,
        maximum: most,
    };
    let raised = rustix::process::setrlimit(Resource::Nofile, limit(most))
        .or_else(|_| rustix::process::setrlimit(Resource::Nofile, limit(now.maximum)));
    if let Err(error) = raised {
        log::warn!(
            "the limit of open files stays at {:?}: {error}",
            now.current
        );
    }
}

fn register_signals(waker: &UnixStream) -> io::Result<()> {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        signal_hook::low_level::pipe::register(signal, waker.try_clone()?)?;
    }
    // A write beyond the limit of file sizes then fails like any other; unless somebody listens to
    // this signal it ends the process.
    signal_hook::flag::register(libc::SIGXFSZ, Arc::default())?;
    Ok(())
}

fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::warn!("tell systemd: {error}");
    }
}

/// Nobody makes or removes devices while those are counted that are there.
fn take_up_what_is_there(netlink: &Netlink, devices: &Devices) -> Result<(), Error> {
    let gate = NetlinkGate::close().map_err(|error| Error::io("block netlink", error))?;
    netlink.announce()?;
    outcome::clear();
    let left = adopt::find()?;
    // Opening them may take long; who makes a new one need not wait.
    drop(gate);
    if !left.is_empty() {
        log::info!("taking up {} devices", left.len());
    }
    adopt::adopt(devices, left);
    Ok(())
}

/// Does what the kernel asks for: makes and removes devices, and answers.
#[derive(Debug)]
struct Follower {
    thread: JoinHandle<()>,
    is_ending: Arc<AtomicBool>,
}

impl Follower {
    fn start(netlink: Arc<Netlink>, devices: &Arc<Devices>) -> Result<Self, Error> {
        let is_ending = Arc::<AtomicBool>::default();
        let (devices, ends) = (Arc::clone(devices), Arc::clone(&is_ending));
        let thread = std::thread::Builder::new()
            .name("netlink".to_owned())
            .spawn(move || follow(&netlink, &devices, &ends))
            .map_err(|error| Error::io("start thread", error))?;
        Ok(Self { thread, is_ending })
    }

    fn stop(self) {
        self.is_ending.store(true, Ordering::Release);
        if self.thread.join().is_err() {
            log::error!("the netlink thread has failed");
        }
    }
}

/// Events are taken at once, whatever becomes of them: the kernel drops what finds no room.
fn follow(netlink: &Arc<Netlink>, devices: &Arc<Devices>, is_ending: &AtomicBool) {
    let openers = Workers::new("opener", OPENERS_MAX);
    let mut rest = EVENT_WAIT;
    while !is_ending.load(Ordering::Acquire) {
        match netlink.receive(EVENT_WAIT) {
            Ok(events) => {
                rest = EVENT_WAIT;
                for event in events {
                    let (netlink, devices) = (Arc::clone(netlink), Arc::clone(devices));
                    openers.submit(Box::new(move || act(&netlink, &devices, &event)));
                }
            }
            Err(error) => {
                log::error!("{error}");
                // What fails once may fail for ever; it must not fill the log.
                rest = (rest * 2).min(DRAIN_TIMEOUT);
                let began = Instant::now();
                while began.elapsed() < rest && !is_ending.load(Ordering::Acquire) {
                    std::thread::park_timeout(EVENT_WAIT);
                }
            }
        }
    }
    if !openers.wait_until_idle(Instant::now() + DRAIN_TIMEOUT) {
        log::warn!("ending while devices are made or removed");
    }
}

fn act(netlink: &Netlink, devices: &Devices, event: &Event) {
    let Some(status) = status(devices, event) else {
        return;
    };
    if let Err(error) = netlink.answer(event, status) {
        log::error!("{error}: whoever made or removed {} hangs", event.device);
    }
}

/// What the kernel is told; `None` for a device that is another daemon's.
fn status(devices: &Devices, event: &Event) -> Option<i32> {
    if event.kind == EventKind::Removed && devices.detach(event.minor) {
        return Some(0);
    }
    let uio = match uio::find(event.minor) {
        Ok(uio) => uio?,
        Err(error) => {
            log::error!("{}: {error}", event.device);
            return None;
        }
    };
    let name = uio.name.device.clone();
    match event.kind {
        EventKind::Added => {}
        EventKind::Reconfigured => return Some(-libc::EOPNOTSUPP),
        // Ours, and not served: its image could not be opened.
        EventKind::Removed => return Some(0),
    }
    match devices.attach(uio) {
        Ok(()) => Some(0),
        Err(error) => {
            log::error!("{name}: {error}");
            // As the C++ daemon, whatever the reason.
            Some(-libc::ENOENT)
        }
    }
}

/// Lets go of all devices in good order: none is in the middle of a command when its image is closed.
fn end(devices: &[Arc<Device>]) {
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    std::thread::scope(|scope| {
        for device in devices {
            let thread = std::thread::Builder::new().name("end".to_owned());
            if thread
                .spawn_scoped(scope, || end_one(device, deadline))
                .is_err()
            {
                end_one(device, deadline);
            }
        }
    });
}

fn end_one(device: &Device, deadline: Instant) {
    let name = &device.uio().name;
    let backstore = Backstore::of(name);
    // Commands that come now are sent back, and asked again of the next daemon.
    if let Err(error) = backstore.block(true) {
        log::warn!("{}: cannot be blocked: {error}", name.device);
    }
    if !device.stop(deadline) {
        log::warn!(
            "{}: ends with commands under way; the next daemon has them asked again",
            name.device
        );
    }
    device.flush();
    if let Err(error) = backstore.block(false) {
        log::warn!("{}: stays blocked: {error}", name.device);
    }
}
