//! Any bytes as a zfile whose checksums are right, so that what is behind them is reached too.
#![no_main]

use std::ops::Range;

const RECORD: usize = 512;
const BLOCK_CRC_INIT: u32 = 100_007;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if repair(&mut bytes).is_some() {
        layers_fuzz::open_and_read(&bytes);
    }
});

/// The raw register, as all checksums of a zfile.
fn register(init: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!init, bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..)?.first_chunk::<8>()?;
    usize::try_from(u64::from_le_bytes(*field)).ok()
}

fn put(bytes: &mut [u8], at: usize, value: u32) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut::<4>()? = value.to_le_bytes();
    Some(())
}

/// Makes block checksums, index checksums and digests right, as far as there is room for them.
fn repair(bytes: &mut [u8]) -> Option<()> {
    let trailer = bytes.len().checked_sub(RECORD).filter(|at| *at >= RECORD)?;
    for record in [0, trailer] {
        if let Some(index) = index_range(bytes, record) {
            repair_blocks(bytes, record, index.clone());
            let crc = register(0, bytes.get(index)?);
            put(bytes, record + 64, crc)?;
        }
        put(bytes, record + 28, 0)?;
        let digest = register(0, bytes.get(record..record + RECORD)?);
        put(bytes, record + 28, digest)?;
    }
    Some(())
}

fn index_range(bytes: &[u8], record: usize) -> Option<Range<usize>> {
    let start = u64_at(bytes, record + 40).filter(|start| *start >= RECORD)?;
    let end = start.checked_add(u64_at(bytes, record + 48)?.checked_mul(4)?)?;
    (end <= bytes.len() - RECORD).then_some(start..end)
}

/// Stops at the first block that does not fit.
fn repair_blocks(bytes: &mut [u8], record: usize, index: Range<usize>) -> Option<()> {
    let dictionary = *bytes.get(record + 84..)?.first_chunk::<4>()?;
    let mut offset = RECORD.checked_add(usize::try_from(u32::from_le_bytes(dictionary)).ok()?)?;
    for entry in index.clone().step_by(4) {
        let stored = *bytes.get(entry..)?.first_chunk::<4>()?;
        let end = offset.checked_add(usize::try_from(u32::from_le_bytes(stored)).ok()?)?;
        let crc_at = end.checked_sub(4).filter(|_| end <= index.start)?;
        let crc = register(BLOCK_CRC_INIT, bytes.get(offset..crc_at)?);
        put(bytes, crc_at, crc)?;
        offset = end;
    }
    Some(())
}
