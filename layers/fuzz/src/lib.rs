//! What the fuzz targets of zfiles check.

use layers::io::MemoryFile;
use layers::zfile::{self, ZFile};
use layers::{Dest, Progress, ReadAt, Wait};

/// Most bytes that one read of a target asks for.
const READ_BYTES_MAX: u64 = 200_000;

/// Most blocks that a target checks one by one.
const VERIFY_BLOCKS_MAX: usize = 64;

/// Opens `bytes` as a zfile and reads the ends and the middle of what is in it.
///
/// # Panics
/// When two reads of the same bytes differ, or verification and reading disagree.
pub fn open_and_read(bytes: &[u8]) {
    let file = || MemoryFile::new("input", bytes.to_vec());
    let is_zfile = zfile::detect(&file());
    let Ok(zfile) = ZFile::open(Box::new(file())) else {
        return;
    };
    assert!(
        is_zfile.is_ok_and(|is_zfile| is_zfile),
        "opens, but is not detected"
    );
    let size = zfile.size();
    let mut all_read = true;
    for start in [0, size / 2, size.saturating_sub(READ_BYTES_MAX)] {
        all_read &= read_twice(&zfile, start, (size - start).min(READ_BYTES_MAX));
    }
    if zfile.block_count() <= VERIFY_BLOCKS_MAX {
        let sound = zfile
            .verify_all(|_| ())
            .is_ok_and(|report| report.is_sound());
        assert!(all_read || !sound, "verified, but not readable");
    }
}

/// Reads a range at once and all of it but the first byte again; true when that worked.
fn read_twice(zfile: &ZFile, start: u64, len: u64) -> bool {
    let mut whole = vec![0; usize::try_from(len).unwrap_or(0)];
    let progress = zfile.read_at(start, Dest::from(&mut whole[..]), Wait::Never);
    match progress {
        Ok(Progress::Done) => {}
        // A block is wrong, and is left to somebody who may wait until it was fetched again.
        Ok(Progress::Pending) => {
            let again = zfile.read_exact_at(start, &mut whole);
            assert!(again.is_err(), "wrong, and then right, in memory");
            return false;
        }
        Err(_) => return false,
    }
    if let Some((_, expected)) = whole.split_first() {
        let mut tail = vec![0; expected.len()];
        let result = zfile.read_exact_at(start + 1, &mut tail);
        assert!(result.is_ok() && tail == expected, "two reads differ");
    }
    true
}
