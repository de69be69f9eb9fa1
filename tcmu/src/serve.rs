//! One process for the host: takes up what is there, then follows the kernel until a signal.
//!
//! main -> **serve** -> adopt, follow, control
//!
//! Source: format reference 8.3, 8.6; sd_notify(3).

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use layers::Service;
use layers::config::ServiceConfig;
use layers::log_file::LogOutput;
use rustix::process::{Resource, Rlimit};
use sd_notify::NotifyState;

use crate::adopt::{self, Adoption};
use crate::args::Args;
use crate::backstore::Backstore;
use crate::control::Control;
use crate::device::Device;
use crate::devices::Devices;
use crate::error::Error;
use crate::follow::Follower;
use crate::lock;
use crate::netlink::Netlink;
use crate::netlink_gate::NetlinkGate;
use crate::outcome;

/// At the end, time for commands that are under way.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

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
    let _lock = lock::take()?;
    raise_file_limit();
    let (mut wake, waker) = UnixStream::pair().map_err(|error| Error::io("make socket", error))?;
    register_signals(&waker).map_err(|error| Error::io("handle signals", error))?;

    let service = Service::new(config);
    let devices = Arc::new(Devices::new(service.clone(), args.config.clone()));
    // From here on no event is missed.
    let netlink = Arc::new(Netlink::open()?);
    let adoptions = admit_what_is_there(&netlink, &devices)?;
    let follower = Follower::start(netlink, &devices)?;
    let starting = Starting {
        service,
        devices: Arc::clone(&devices),
        waker,
    };
    let start = starting.take_up(adoptions)?;

    wake.read_exact(&mut [0])
        .map_err(|error| Error::io("wait for a signal", error))?;
    log::info!("ending; the devices stay, and wait for the next daemon");
    notify(NotifyState::Stopping);
    follower.stop();
    // It may still wait for an image.
    let control = start.is_finished().then(|| start.join());
    let ended = match control {
        Some(Ok(Err(error))) => Err(error),
        _ => Ok(()),
    };
    end(&devices.all());
    ended
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

/// Nobody makes or removes devices while those are counted that are there; who makes one afterwards need
/// not wait for their images.
fn admit_what_is_there(netlink: &Netlink, devices: &Arc<Devices>) -> Result<Vec<Adoption>, Error> {
    let _gate = NetlinkGate::close().map_err(|error| Error::io("block netlink", error))?;
    netlink.announce()?;
    outcome::clear();
    adopt::admit_all(devices)
}

/// What is done beside the waiting for a signal.
struct Starting {
    service: Service,
    devices: Arc<Devices>,
    /// Ends the process.
    waker: UnixStream,
}

impl Starting {
    /// Opens the images of devices that were left; then lets others ask for snapshots of them, and tells that
    /// all is done that there was to be done.
    fn take_up(
        mut self,
        adoptions: Vec<Adoption>,
    ) -> Result<JoinHandle<Result<Control, Error>>, Error> {
        let work = move || {
            if !adoptions.is_empty() {
                log::info!("taking up {} devices", adoptions.len());
            }
            adopt::serve_all(&self.devices, adoptions);
            let control = Control::start(&self.service, &self.devices);
            match &control {
                Ok(_) => {
                    notify(NotifyState::Ready);
                    log::info!("ready; {} devices", self.devices.all().len());
                }
                Err(_) => self
                    .waker
                    .write_all(&[0])
                    .unwrap_or_else(|error| log::error!("end: {error}")),
            }
            control
        };
        let thread = std::thread::Builder::new().name("adopt".to_owned());
        thread
            .spawn(work)
            .map_err(|error| Error::io("start thread", error))
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
