//! What can fail outside of a command.
//!
//! Everything here reads well in one line: operation, file or device, reason.

use std::fmt;
use std::io;
use std::path::Path;

/// One failed operation.
#[derive(Debug)]
pub enum Error {
    /// An image or a config; says all there is to say.
    Engine(layers::Error),
    /// The operating system refused something.
    Io {
        /// What was done, and to which file or device.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The kernel has no TCMU, or it is not loaded.
    NoModule,
    /// A device's memory makes no sense.
    Ring {
        /// What was done.
        op: &'static str,
        /// What was found.
        detail: String,
    },
    /// Another daemon serves this host; its lock.
    AlreadyRunning(String),
    /// Another device has this id.
    DuplicatedId(String),
}

impl Error {
    /// `op` is a verb phrase such as "start thread".
    #[must_use]
    pub fn io(op: &str, source: io::Error) -> Self {
        Self::Io {
            what: op.to_owned(),
            source,
        }
    }

    /// The same, done to a file.
    #[must_use]
    pub fn file(op: &str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            what: format!("{op} {}", path.display()),
            source,
        }
    }

    /// Does somebody else have it?
    #[must_use]
    pub fn is_busy(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.raw_os_error() == Some(libc::EBUSY),
            _ => false,
        }
    }
}

impl From<layers::Error> for Error {
    fn from(error: layers::Error) -> Self {
        Self::Engine(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Engine(error) => error.fmt(f),
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::NoModule => write!(
                f,
                "the kernel does not know TCMU: load it (modprobe target_core_user); `obd doctor` says \
                 what else is missing"
            ),
            Self::Ring { op, detail } => write!(f, "{op}: {detail}"),
            Self::AlreadyRunning(lock) => write!(
                f,
                "another overlaybd-tcmu serves this host: it holds {lock}, which has its pid"
            ),
            Self::DuplicatedId(id) => {
                write!(f, "attach device: another device has the dev_id {id}")
            }
        }
    }
}

impl std::error::Error for Error {}
