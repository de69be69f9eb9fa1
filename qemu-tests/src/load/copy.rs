//! Writes a raw file to the start of a disk.
//!
//! **copy** -> disk -> server

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::disk::{Completions, Disk, Setup, Span};

/// Bytes of a write, but for the last one.
const WRITE_BYTES: usize = 256 << 10;

/// Writes in flight at most.
const DEPTH: usize = 8;

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Copied {
    /// Bytes, a whole number of sectors.
    pub bytes: u64,
}

/// Writes all of `raw` to the disk at `socket`, in order, and flushes.
///
/// # Errors
/// The file is no whole number of sectors or larger than the disk; a write fails.
pub fn whole_file(socket: &Path, raw: &Path) -> Result<Copied> {
    let file = File::open(raw).with_context(|| format!("open {}", raw.display()))?;
    let bytes = file.metadata()?.len();
    let setup = Setup {
        completions: Completions::Interrupt,
        writable: true,
        slots: DEPTH,
        slot_bytes: WRITE_BYTES,
    };
    let mut disk = Disk::connect(socket, setup)?;
    let capacity = disk.capacity()?;
    ensure!(
        bytes.is_multiple_of(512) && bytes <= capacity,
        "{} has {bytes} bytes, the disk {capacity}",
        raw.display()
    );
    let mut idle: Vec<usize> = (0..DEPTH).collect();
    let mut block = vec![0; WRITE_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let slot = match idle.pop() {
            Some(slot) => slot,
            None => {
                finish(&mut disk, &mut idle)?;
                continue;
            }
        };
        let len = usize::try_from(bytes - offset)?.min(WRITE_BYTES);
        let part = block.get_mut(..len).context("longer than a write")?;
        file.read_exact_at(part, offset)?;
        disk.copy_to_slot(slot, 0, part)?;
        disk.submit_write(slot, Span { offset, len })?;
        offset += len as u64;
    }
    while idle.len() < DEPTH {
        finish(&mut disk, &mut idle)?;
    }
    disk.submit_flush(0)?;
    idle.retain(|slot| *slot != 0);
    finish(&mut disk, &mut idle)?;
    Ok(Copied { bytes })
}

fn finish(disk: &mut Disk, idle: &mut Vec<usize>) -> Result<()> {
    let mut finished = Vec::with_capacity(DEPTH);
    disk.wait(&mut finished)?;
    for done in finished {
        ensure!(done.status == 0, "a write failed: error {}", done.status);
        idle.push(done.slot);
    }
    Ok(())
}
