//! Devices that an earlier daemon has left: the host goes on using them as if nothing had been.
//!
//! serve -> **adopt** -> devices, backstore
//!
//! A device that nobody serves holds its commands. Its ring is emptied, which has the kernel send
//! every command back to whoever asked, who asks again; while the image is opened new ones are
//! sent back as well.
//!
//! Source: format reference 8.3; drivers/target/target_core_user.c (tcmu_reset_ring).

use std::io;

use crate::backstore::Backstore;
use crate::devices::Devices;
use crate::error::Error;
use crate::uio::{self, Uio};

/// A device whose commands are sent back until this is dropped.
struct Blocked<'a>(&'a Backstore);

impl<'a> Blocked<'a> {
    fn new(backstore: &'a Backstore) -> io::Result<Self> {
        backstore.block(true)?;
        Ok(Self(backstore))
    }
}

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.block(false) {
            log::error!("{error}: a device stays blocked; detach it");
        }
    }
}

/// The devices that are there now, none of them served.
///
/// # Errors
/// When sysfs cannot be read.
pub fn find() -> Result<Vec<Uio>, Error> {
    uio::find_all().map_err(|error| Error::io("look for devices", error))
}

/// Takes all of them up, side by side; one that cannot be is told and left. Blocks.
pub fn adopt(devices: &Devices, left: Vec<Uio>) {
    std::thread::scope(|scope| {
        for uio in left {
            let name = uio.name.device.clone();
            let adopting = move || {
                if let Err(error) = adopt_one(devices, uio) {
                    log::error!("{name}: not taken up again: {error}");
                }
            };
            let thread = std::thread::Builder::new().name("adopt".to_owned());
            if let Err(error) = thread.spawn_scoped(scope, adopting) {
                log::error!("start thread: {error}");
            }
        }
    });
}

fn adopt_one(devices: &Devices, uio: Uio) -> Result<(), Error> {
    let backstore = Backstore::of(&uio.name);
    let blocked = Blocked::new(&backstore);
    if let Err(error) = backstore.reset_ring() {
        log::warn!(
            "{}: its ring cannot be reset ({error}): commands that the last daemon held wait for \
             their time-out",
            uio.name.device
        );
    }
    let adopted = devices.adopt(uio);
    drop(blocked);
    adopted
}
