//! Where the process tells how it goes, and takes orders: Prometheus, and snapshots.
//!
//! serve -> **control** -> exporter, snapshot API
//!
//! Source: format reference 9.1, 9.2.

use layers::Service;
use layers::exporter::{Address, Exporter, Site};
use layers::socket::SocketFile;

use crate::error::Error;

/// Who answers; ends when dropped.
#[derive(Debug)]
pub struct Control {
    _exporter: Option<Exporter>,
    _file: Option<SocketFile>,
}

impl Control {
    /// Listens where the service config wants it.
    ///
    /// # Errors
    /// When somebody else listens there; the message says what to do.
    pub fn start(service: &Service) -> Result<Self, Error> {
        let config = &service.config().exporter;
        if !config.enable {
            return Ok(Self {
                _exporter: None,
                _file: None,
            });
        }
        let (listener, file) = Address::new(config, std::process::id())?.listen()?;
        log::info!("metrics at {}", listener.place());
        let uri_prefix = config.uri_prefix.clone();
        let sites = vec![(listener, Site::Metrics { uri_prefix })];
        Ok(Self {
            _exporter: Some(Exporter::start(service.metrics(), sites)?),
            _file: file,
        })
    }
}
