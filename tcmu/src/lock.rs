//! One daemon for a host.
//!
//! serve -> **lock** -> `/run/overlaybd-tcmu.lock`, `obd`

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use layers::tcmu_names::DAEMON_LOCK;

use crate::error::Error;

/// Time for the daemon before to be gone.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// Makes sure that this is the only daemon of the host, and tells others that there is one. Who looks
/// whether there is one holds the lock for a moment.
pub(crate) fn take() -> Result<File, Error> {
    let path = Path::new(DAEMON_LOCK);
    let fail = |error| Error::file("open lock", path, error);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(fail)?;
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => return Err(fail(error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(Error::AlreadyRunning(path.display().to_string()));
            }
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOCK_WAIT / 100),
        }
    }
    let written = file
        .set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| Error::file("write lock", path, error))?;
    Ok(file)
}
