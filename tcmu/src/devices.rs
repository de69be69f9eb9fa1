//! All devices of the host that are ours.
//!
//! serve, adopt -> **devices** -> device
//!
//! Invariants
//! - a device of the kernel is in the table at most once, and so is a name that its config gave it.
//! - no lock is held while an image is opened or closed.
//!
//! Source: format reference 5 (`download`), 8.2, 8.3, 8.6.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use layers::Service;
use layers::config::ServiceConfig;
use layers::exporter::Disks;
use layers::tcmu_names::UioName;

use crate::device::Device;
use crate::error::Error;
use crate::outcome;
use crate::uio::Uio;

/// A removed device's commands have this time to end; none should be under way.
const DETACH_TIMEOUT: Duration = Duration::from_secs(3);

/// A device that the kernel has removed is known to be gone after this time.
const GONE_TIMEOUT: Duration = Duration::from_secs(2);

/// An image that did not open after a restart is tried again after this time, which doubles ...
const REOPEN_FIRST: Duration = Duration::from_secs(5);
/// ... up to this.
const REOPEN_MAX: Duration = Duration::from_secs(60);

/// See the module's description.
#[derive(Debug)]
pub struct Devices {
    service: Service,
    /// Of the service.
    config: Option<PathBuf>,
    /// By the number of the uio device.
    table: Mutex<BTreeMap<u32, Arc<Device>>>,
}

impl Devices {
    /// None yet. `config` is the path that `service` was made of.
    #[must_use]
    pub fn new(service: Service, config: Option<PathBuf>) -> Self {
        Self {
            service,
            config,
            table: Mutex::default(),
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Device>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The devices there are now.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Device>> {
        self.table().values().cloned().collect()
    }

    /// The service, with `download` as the config file says it now.
    fn service(&self) -> Service {
        match ServiceConfig::load_for_host(self.config.as_deref()) {
            Ok(config) => self.service.with_download(config.download),
            Err(error) => {
                log::warn!("{error}; `download` stays as it was");
                self.service.clone()
            }
        }
    }

    /// Takes up a device that the kernel has made: opens its image and serves it. A device that is
    /// served already is left alone. Blocks as long as the image takes to open.
    ///
    /// # Errors
    /// When the device, or its image, cannot be opened; the result file says why as well.
    pub fn attach(&self, uio: Uio) -> Result<(), Error> {
        let served = self.table().get(&uio.number).cloned();
        if let Some(device) = served {
            if !is_gone_soon(&device) {
                return Ok(());
            }
            // Its number was given to another before the news came that it is no more.
            self.detach(uio.number);
        }
        let name = uio.name.clone();
        let number = uio.number;
        let attached = self.open(uio);
        tell(&name, &attached);
        if attached.is_ok() && !self.table().contains_key(&number) {
            // It was removed meanwhile.
            outcome::forget(&name);
        }
        attached
    }

    fn open(&self, uio: Uio) -> Result<(), Error> {
        let number = uio.number;
        let (device, taker) = Device::open(uio)?;
        let device = Arc::new(device);
        self.insert(&device)?;
        let opened = device.open_disk(&self.service()).map_err(Error::from);
        opened
            .and_then(|()| device.start(taker))
            .inspect_err(|_| drop(self.table().remove(&number)))
    }

    /// Takes up a device that an earlier daemon has served. Should its image not open, its commands
    /// fail, and it is tried again until it does.
    ///
    /// # Errors
    /// When the device cannot be opened.
    pub fn adopt(&self, uio: Uio) -> Result<(), Error> {
        let name = uio.name.clone();
        let adopted = self.open_again(uio);
        tell(&name, &adopted);
        adopted
    }

    fn open_again(&self, uio: Uio) -> Result<(), Error> {
        let (device, taker) = Device::open(uio)?;
        let device = Arc::new(device);
        self.insert(&device)?;
        let opened = device.open_disk(&self.service());
        device
            .start(taker)
            .inspect_err(|_| drop(self.table().remove(&device.uio().number)))?;
        if let Err(error) = opened {
            let name = &device.uio().name.device;
            log::error!("{name}: {error}; its I/O fails until the image opens");
            self.reopen(device)?;
        }
        Ok(())
    }

    fn insert(&self, device: &Arc<Device>) -> Result<(), Error> {
        let name = &device.uio().name;
        let mut table = self.table();
        let is_taken = |other: &Arc<Device>| other.uio().name.dev_id == name.dev_id;
        if !name.dev_id.is_empty() && table.values().any(is_taken) {
            drop(table);
            let message = format!("duplicated dev id: {}", name.dev_id);
            if let Err(error) = layers::image::refuse(&name.config, &message) {
                log::warn!("{error}");
            }
            return Err(Error::DuplicatedId(name.dev_id.clone()));
        }
        table.insert(device.uio().number, Arc::clone(device));
        Ok(())
    }

    /// Tries to open the image of `device` until it opens, or the device goes away.
    fn reopen(&self, device: Arc<Device>) -> Result<(), Error> {
        let service = self.service();
        let work = move || {
            let mut wait = REOPEN_FIRST;
            while device.pause(wait) {
                match device.open_disk(&service) {
                    Ok(()) => return,
                    Err(error) => log::warn!("{}: {error}", device.uio().name.device),
                }
                wait = (wait * 2).min(REOPEN_MAX);
            }
        };
        let thread = std::thread::Builder::new().name("reopen".to_owned());
        let spawned = thread.spawn(work);
        spawned
            .map(drop)
            .map_err(|error| Error::io("start thread", error))
    }

    /// Lets go of a device that the kernel removes, and closes its image. False for one that is not
    /// served. Blocks.
    pub fn detach(&self, number: u32) -> bool {
        let Some(device) = self.table().remove(&number) else {
            return false;
        };
        let name = device.uio().name.clone();
        if !device.stop(Instant::now() + DETACH_TIMEOUT) {
            log::warn!("{}: removed while commands were under way", name.device);
        }
        drop(device);
        outcome::forget(&name);
        log::info!("{}: removed", name.device);
        true
    }
}

/// Does the kernel let go of the device? Blocks for a moment.
fn is_gone_soon(device: &Device) -> bool {
    let deadline = Instant::now() + GONE_TIMEOUT;
    while !device.is_gone() {
        if Instant::now() >= deadline || !device.pause(GONE_TIMEOUT / 100) {
            return false;
        }
    }
    true
}

fn tell(name: &UioName, outcome: &Result<(), Error>) {
    match outcome {
        Ok(()) => outcome::tell(name, Ok(())),
        Err(error) => outcome::tell(name, Err(&error.to_string())),
    }
}

impl Disks for Devices {
    fn snapshot(&self, dev_id: &str, new_config: &Path) -> layers::Result<Option<()>> {
        let mut devices = self.all().into_iter();
        let found = devices.find(|device| device.uio().name.dev_id == dev_id);
        let Some(device) = found else { return Ok(None) };
        let Some(disk) = device.disk() else {
            return Ok(None);
        };
        disk.image().snapshot(disk.config(), new_config).map(Some)
    }
}
