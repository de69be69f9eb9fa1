//! Tells whoever made a device without waiting for the kernel's answer how it went: a file for each device.
//!
//! devices -> **outcome** -> /run/overlaybd-tcmu, `obd attach`, `obd detach`
//!
//! The kernel passes on the first answer to an event, and tcmu-runner answers also for handlers that are
//! not its own. So `obd` asks the kernel not to wait for any, and looks here.
//!
//! | file `<hba>_<device>` | means |
//! |---|---|
//! | `success` | the device is served |
//! | `failed: REASON` | it is not, and will not be |
//! | none | nobody has it: not yet, or not any more |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use layers::tcmu_names::{OUTCOMES, UioName, outcome_name};

/// Forgets what an earlier daemon has told.
pub(crate) fn clear() {
    let Ok(entries) = fs::read_dir(OUTCOMES) else {
        return;
    };
    for entry in entries.flatten() {
        remove_file(&entry.path());
    }
}

/// The outcome of taking up a device.
pub(crate) fn tell(name: &UioName, outcome: Result<(), &str>) {
    let text = match outcome {
        Ok(()) => "success".to_owned(),
        Err(reason) => format!("failed: {reason}"),
    };
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let path = path(name);
    let number = TOLD.fetch_add(1, Ordering::Relaxed);
    // No device's name begins with a dot.
    let temporary = Path::new(OUTCOMES).join(format!(".{number}"));
    // Who reads it finds all of it or nothing.
    let written = fs::create_dir_all(OUTCOMES)
        .and_then(|()| fs::write(&temporary, text))
        .and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        log::warn!("{}: {error}", path.display());
    }
}

/// The device is let go of, and its image closed.
pub(crate) fn forget(name: &UioName) {
    remove_file(&path(name));
}

fn path(name: &UioName) -> PathBuf {
    Path::new(OUTCOMES).join(outcome_name(&name.adapter(), &name.device))
}

fn remove_file(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            log::warn!("{}: {error}", path.display());
        }
        _ => {}
    }
}
