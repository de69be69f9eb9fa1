//! The sockets on which the process tells how it goes.
//!
//! serve -> **control** -> exporter
//!
//! Beside each disk's socket there is one with `.control` appended, for `obd why`; and one for Prometheus, if
//! the service configuration wants it. A disk runs without its control socket, should that be
//! impossible to make.
//!
//! Invariant: only the process's own user and root may connect to a control socket.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layers::Service;
use layers::exporter::{Address, CONTROL_SUFFIX, Exporter, Keys, Listener, Site};
use layers::socket::{self, SocketFile};

use crate::disk::Disk;
use crate::serve::Error;

/// The sockets and who answers there; all are gone when this is dropped.
#[derive(Debug)]
pub struct Control {
    _exporter: Option<Exporter>,
    _files: Vec<SocketFile>,
}

impl Control {
    /// Listens for the process, and for each disk beside its socket.
    ///
    /// # Errors
    /// When the exporter is wanted and cannot listen; the message says why and what to do.
    pub fn start(service: &Service, disks: &[(PathBuf, Arc<Disk>)]) -> Result<Self, Error> {
        let mut listeners = Vec::new();
        let mut files = Vec::new();
        let config = &service.config().exporter;
        if config.enable {
            let address = Address::new(config, std::process::id())?;
            let (listener, file) = address.listen(Keys::EXPORTER)?;
            log::info!("metrics at {}", listener.place());
            files.extend(file);
            let uri_prefix = config.uri_prefix.clone();
            listeners.push((listener, Site::Metrics { uri_prefix }));
        }
        for (socket, disk) in disks {
            match bind_private(&control_path(socket)) {
                Ok((listener, file)) => {
                    files.push(file);
                    let site = Site::Disk(Arc::clone(disk.metrics()));
                    listeners.push((Listener::Unix(listener), site));
                }
                Err(error) => log::warn!("{}: no `obd why`: {error}", disk.name()),
            }
        }
        let exporter = match listeners.is_empty() {
            true => None,
            false => Some(Exporter::start(service.metrics(), listeners)?),
        };
        Ok(Self {
            _exporter: exporter,
            _files: files,
        })
    }
}

/// Where the disk at `socket` answers `obd why`.
fn control_path(socket: &Path) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(CONTROL_SUFFIX);
    path.into()
}

/// As [`socket::bind`]. Between its two steps somebody else may connect, and learn what is told
/// there; it cannot change anything.
fn bind_private(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let bound = socket::bind(path)?;
    bound.1.make_private()?;
    Ok(bound)
}
