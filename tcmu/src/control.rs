//! Where the process tells how it goes, and takes orders: Prometheus, and snapshots.
//!
//! serve -> **control** -> exporter
//!
//! Source: format reference 9.1, 9.2.

use std::sync::Arc;

use layers::Service;
use layers::exporter::{Address, Exporter, Keys, Site, Snapshots};
use layers::socket::SocketFile;

use crate::devices::Devices;
use crate::error::Error;

/// Who answers; ends when dropped.
#[derive(Debug)]
pub(crate) struct Control {
    _exporter: Option<Exporter>,
    _files: Vec<SocketFile>,
}

impl Control {
    /// Listens where the service config wants it.
    ///
    /// # Errors
    /// When somebody else listens there; the message says what to do.
    pub(crate) fn start(service: &Service, devices: &Arc<Devices>) -> Result<Self, Error> {
        let mut sites = Vec::new();
        let mut files = Vec::new();
        let config = service.config();
        if config.exporter.enable {
            let address = Address::new(&config.exporter, std::process::id())?;
            let (listener, file) = address.listen(Keys::EXPORTER)?;
            log::info!("metrics at {}", listener.place());
            let uri_prefix = config.exporter.uri_prefix.clone();
            sites.push((listener, Site::Metrics { uri_prefix }));
            files.extend(file);
        }
        if config.snapshots.enable {
            let disks = Arc::clone(devices);
            let (listener, site, file) = Snapshots::listen(&config.snapshots, disks)?;
            log::info!("snapshots at {}", listener.place());
            sites.push((listener, site));
            files.extend(file);
        }
        let exporter = match sites.is_empty() {
            true => None,
            false => Some(Exporter::start(service.metrics(), sites)?),
        };
        Ok(Self {
            _exporter: exporter,
            _files: files,
        })
    }
}
