//! All devices of the host that are ours.
//!
//! serve, follow, adopt -> **devices** -> device
//!
//! The kernel gives the number of a device that is gone to the next at once. So a device has its place in
//! the table as soon as it is heard of, in the order of the kernel's events, and whoever is done with one
//! looks whether the place is still its own.
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

use crate::adopt;
use crate::device::Device;
use crate::dispatch::End;
use crate::error::Error;
use crate::outcome;
use crate::ring::{Region, Taker};
use crate::uio::Uio;
use crate::workers::Workers;

/// Devices that are closed at the same time.
const CLOSERS_MAX: usize = 32;

/// A removed device's commands have this time to end; none should be under way.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// An image that did not open after a restart is tried again after this time, which doubles ...
const AGAIN_FIRST: Duration = Duration::from_secs(5);
/// ... up to this.
pub(crate) const AGAIN_MAX: Duration = Duration::from_secs(60);

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Devices {
    service: Service,
    /// Of the service.
    config: Option<PathBuf>,
    /// By the number of the uio device.
    table: Mutex<BTreeMap<u32, Arc<Device>>>,
    pub(crate) closers: Workers,
}

/// A device that has its place, and is not served yet.
#[derive(Debug)]
pub(crate) struct Admitted {
    device: Arc<Device>,
    taker: Taker,
}

impl Devices {
    /// None yet. `config` is the path that `service` was made of.
    #[must_use]
    pub(crate) fn new(service: Service, config: Option<PathBuf>) -> Self {
        Self {
            service,
            config,
            table: Mutex::default(),
            closers: Workers::new("closer", CLOSERS_MAX),
        }
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Device>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The devices there are now.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<Arc<Device>> {
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

    /// Maps the memory of a device that the kernel has made, has `prepare` done, and gives it its place;
    /// `None`, and nothing done, when it has one. Does not wait.
    ///
    /// # Errors
    /// When the device cannot be opened, or its id is taken.
    pub(crate) fn admit(
        self: &Arc<Self>,
        uio: Uio,
        prepare: impl FnOnce(),
    ) -> Result<Option<Admitted>, Error> {
        let region = match Region::open(uio.number) {
            // The kernel lets it be opened once: that was here.
            Err(error) if error.is_busy() && self.table().contains_key(&uio.number) => {
                return Ok(None);
            }
            opened => opened?,
        };
        prepare();
        let (device, taker) = Device::over(uio, region)?;
        let device = Arc::new(device);
        // Of a device that went away without an event.
        if let Some(stale) = self.insert(&device)? {
            self.close_later(stale);
        }
        Ok(Some(Admitted { device, taker }))
    }

    fn insert(&self, device: &Arc<Device>) -> Result<Option<Arc<Device>>, Error> {
        let name = &device.uio().name;
        let mut table = self.table();
        let is_taken = |other: &Arc<Device>| other.uio().name.dev_id == name.dev_id;
        if !name.dev_id.is_empty() && table.values().any(is_taken) {
            return Err(Error::DuplicatedId(name.dev_id.clone()));
        }
        Ok(table.insert(device.uio().number, Arc::clone(device)))
    }

    /// Opens the image of the device and serves it. Blocks as long as the image takes to open.
    ///
    /// # Errors
    /// When the image cannot be opened; the result file says why as well. The device loses its place.
    pub(crate) fn serve(self: &Arc<Self>, admitted: Admitted) -> Result<(), Error> {
        let Admitted { device, taker } = admitted;
        let opened = device.open_disk(&self.service()).map_err(Error::from);
        let served = opened.and_then(|()| self.start(&device, taker));
        match &served {
            Ok(()) => self.tell(&device, Ok(())),
            Err(error) => {
                self.tell(&device, Err(&error.to_string()));
                self.remove(&device);
            }
        }
        served
    }

    /// Serves a device that an earlier daemon has served. Should its image not open, its commands
    /// fail, and it is tried again until it does.
    ///
    /// # Errors
    /// When there are no threads left. The device loses its place.
    pub(crate) fn serve_again(self: &Arc<Self>, admitted: Admitted) -> Result<(), Error> {
        let Admitted { device, taker } = admitted;
        let opened = device.open_disk(&self.service());
        if let Err(error) = self.start(&device, taker) {
            self.remove(&device);
            return Err(error);
        }
        self.tell(&device, Ok(()));
        if let Err(error) = opened {
            let name = &device.uio().name.device;
            log::error!("{name}: {error}; its I/O fails until the image opens");
            self.reopen(device)?;
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, device: &Arc<Device>, taker: Taker) -> Result<(), Error> {
        let (devices, ended) = (Arc::downgrade(self), Arc::downgrade(device));
        device.start(taker, move |end| {
            if let (Some(devices), Some(device)) = (devices.upgrade(), ended.upgrade()) {
                devices.ended(device, end);
            }
        })
    }

    /// A device's ring thread is at its end.
    fn ended(self: &Arc<Self>, device: Arc<Device>, end: End) {
        match end {
            End::Stopped => {}
            End::Gone => {
                if self.remove(&device) {
                    self.close_later(device);
                }
            }
            End::Broken => {
                if self.remove(&device) {
                    let devices = Arc::clone(self);
                    let again = move || adopt::take_up_again(&devices, device);
                    self.closers.submit(Box::new(again));
                }
            }
        }
    }

    /// Tells of the device, if it still has its place.
    fn tell(&self, device: &Arc<Device>, outcome: Result<(), &str>) {
        let uio = device.uio();
        let table = self.table();
        if is_at(&table, device) {
            outcome::tell(&uio.name, outcome);
        }
    }

    /// Takes the device's place from it. False when it has none.
    fn remove(&self, device: &Arc<Device>) -> bool {
        let mut table = self.table();
        is_at(&table, device) && table.remove(&device.uio().number).is_some()
    }

    /// Takes its place from the device of this number and name.
    pub(crate) fn take(&self, number: u32, name: &UioName) -> Option<Arc<Device>> {
        let mut table = self.table();
        let is_meant = |device: &Arc<Device>| device.uio().name == *name;
        match table.get(&number).is_some_and(is_meant) {
            true => table.remove(&number),
            false => None,
        }
    }

    /// Tries to open the image of `device` until it opens, or the device goes away.
    fn reopen(&self, device: Arc<Device>) -> Result<(), Error> {
        let service = self.service();
        let work = move || {
            let mut wait = AGAIN_FIRST;
            while device.pause(wait) {
                match device.open_disk(&service) {
                    Ok(()) => return,
                    Err(error) => log::warn!("{}: {error}", device.uio().name.device),
                }
                wait = (wait * 2).min(AGAIN_MAX);
            }
        };
        let thread = std::thread::Builder::new().name("reopen".to_owned());
        let spawned = thread.spawn(work);
        spawned
            .map(drop)
            .map_err(|error| Error::io("start thread", error))
    }

    fn close_later(self: &Arc<Self>, device: Arc<Device>) {
        let devices = Arc::clone(self);
        self.closers.submit(Box::new(move || devices.close(device)));
    }

    /// Lets go of a device that has no place any more, and closes its image. Blocks.
    pub(crate) fn close(&self, device: Arc<Device>) {
        let name = device.uio().name.clone();
        if !device.stop(Instant::now() + CLOSE_TIMEOUT) {
            log::warn!("{}: removed while commands were under way", name.device);
        }
        drop(device);
        self.forget(&name);
        log::info!("{}: removed", name.device);
    }

    /// Tells that nobody has the device any more, unless another of its name is there by now.
    pub(crate) fn forget(&self, name: &UioName) {
        let same = |other: &UioName| (other.hba, &other.device) == (name.hba, &name.device);
        let table = self.table();
        if !table.values().any(|other| same(&other.uio().name)) {
            outcome::forget(name);
        }
    }
}

fn is_at(table: &BTreeMap<u32, Arc<Device>>, device: &Arc<Device>) -> bool {
    let there = table.get(&device.uio().number);
    there.is_some_and(|there| Arc::ptr_eq(there, device))
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
