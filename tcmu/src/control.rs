//! Where the process tells how it goes, and takes orders: Prometheus, and snapshots.
//!
//! serve -> **control** -> exporter, snapshot API
//!
//! Source: format reference 9.1, 9.2.

use std::sync::Arc;

use layers::Service;

use crate::devices::Devices;
use crate::error::Error;

/// wip
#[derive(Debug)]
pub struct Control;

impl Control {
    /// wip
    pub fn start(_service: &Service, _devices: &Arc<Devices>) -> Result<Self, Error> {
        Ok(Self)
    }
}
