//! Devices that an earlier daemon has left: the host goes on using them as if nothing had been.
//!
//! serve, devices -> **adopt** -> devices, backstore
//!
//! A device that nobody serves holds its commands. Its ring is emptied, which has the kernel send
//! every command back to whoever asked, who asks again; while the image is opened new ones are
//! sent back as well.
//!
//! Source: format reference 8.3; drivers/target/target_core_user.c (tcmu_reset_ring).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backstore::Backstore;
use crate::device::Device;
use crate::devices::{AGAIN_MAX, Admitted, Devices};
use crate::error::Error;
use crate::uio::{self, Uio};

/// A device that could not be taken up, or whose ring made no sense, is tried again after this time.
const ADOPT_AGAIN_FIRST: Duration = Duration::from_secs(1);

/// A device whose commands are sent back until this is dropped.
#[derive(Debug)]
struct Blocked(Backstore);

impl Blocked {
    fn new(backstore: Backstore) -> io::Result<Self> {
        backstore.block(true)?;
        Ok(Self(backstore))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        if let Err(error) = self.0.block(false) {
            log::error!("{error}: a device stays blocked; detach it");
        }
    }
}

/// A device that has its place, and gets its image next.
#[derive(Debug)]
pub(crate) struct Adoption {
    name: String,
    admitted: Admitted,
    _blocked: Option<io::Result<Blocked>>,
}

/// Gives the devices that are there now their places; none of them is served. One that cannot be opened is
/// told, and tried again. Does not wait.
///
/// # Errors
/// When sysfs cannot be read.
pub(crate) fn admit_all(devices: &Arc<Devices>) -> Result<Vec<Adoption>, Error> {
    let left = uio::find_all().map_err(|error| Error::io("look for devices", error))?;
    let admit = |uio: Uio| match admit(devices, uio.clone()) {
        Ok(adoption) => adoption,
        Err(error) => {
            log::error!("{}: {error}; tried again", uio.name.device);
            adopt_later(devices, uio);
            None
        }
    };
    Ok(left.into_iter().filter_map(admit).collect())
}

/// Opens the images of all, side by side. Blocks.
pub(crate) fn serve_all(devices: &Arc<Devices>, adoptions: Vec<Adoption>) {
    std::thread::scope(|scope| {
        for adoption in adoptions {
            let thread = std::thread::Builder::new().name("adopt".to_owned());
            let spawned = thread.spawn_scoped(scope, || serve(devices, adoption));
            if let Err(error) = spawned {
                log::error!("start thread: {error}; a device is not taken up");
            }
        }
    });
}

/// Takes up a device again whose ring made no sense. Blocks until nobody works on its commands.
pub(crate) fn take_up_again(devices: &Arc<Devices>, device: Arc<Device>) {
    let uio = device.uio().clone();
    // Data of a command is written to memory that the kernel, once the ring is empty, gives to others.
    while !device.stop(Instant::now() + AGAIN_MAX) {
        log::warn!("{}: commands are under way", uio.name.device);
    }
    drop(device);
    adopt_later(devices, uio);
}

/// Does it until it is done, or the device goes away.
fn adopt_later(devices: &Arc<Devices>, uio: Uio) {
    let (devices, name) = (Arc::clone(devices), uio.name.device.clone());
    let work = move || {
        let mut wait = ADOPT_AGAIN_FIRST;
        loop {
            let began = Instant::now();
            while began.elapsed() < wait {
                std::thread::park_timeout(wait);
            }
            wait = (wait * 2).min(AGAIN_MAX);
            if uio::find(uio.number).is_ok_and(|found| found.as_ref() != Some(&uio)) {
                return;
            }
            match admit(&devices, uio.clone()) {
                Ok(Some(adoption)) => return serve(&devices, adoption),
                Ok(None) => return,
                Err(error) => log::warn!("{}: {error}; tried again", uio.name.device),
            }
        }
    };
    let thread = std::thread::Builder::new().name("adopt".to_owned());
    if let Err(error) = thread.spawn(work) {
        log::error!("{name}: start thread: {error}; not taken up");
    }
}

/// `None` when it has its place already.
fn admit(devices: &Arc<Devices>, uio: Uio) -> Result<Option<Adoption>, Error> {
    let name = uio.name.device.clone();
    let backstore = Backstore::of(&uio.name);
    let mut blocked = None;
    // Not before nobody else can have it open.
    let admitted = devices.admit(uio, || {
        blocked = Some(Blocked::new(backstore.clone()));
        if let Err(error) = backstore.reset_ring() {
            log::warn!(
                "{name}: its ring cannot be reset ({error}): commands that the last daemon held wait \
                 for their time-out"
            );
        }
    })?;
    Ok(admitted.map(|admitted| Adoption {
        name: name.clone(),
        admitted,
        _blocked: blocked,
    }))
}

fn serve(devices: &Arc<Devices>, adoption: Adoption) {
    if let Err(error) = devices.serve_again(adoption.admitted) {
        log::error!("{}: not taken up again: {error}", adoption.name);
    }
}
