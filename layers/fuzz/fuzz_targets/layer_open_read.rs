//! Any bytes as a layer, wrapped or not: opened, stacked and read as a disk.
#![no_main]

use layers::io::MemoryFile;
use layers::lsmt::Layer;
use layers::zfile::ZFile;
use layers::{Image, ReadAt, Result, tar, zfile};

/// More than any seed; larger disks are read in part.
const READ_BYTES: u64 = 4 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // What does not open is refused; only a panic is a fault.
    drop(read_disk(bytes));
});

fn read_disk(bytes: &[u8]) -> Result<()> {
    let payload = tar::unwrap(Box::new(MemoryFile::new("fuzz", bytes.to_vec())))?;
    let decoded: Box<dyn ReadAt> = if zfile::detect(&*payload)? {
        Box::new(ZFile::open(payload)?)
    } else {
        payload
    };
    let image = Image::from_layers(vec![Layer::open(decoded)?], "")?;
    check_index(&image);
    let mut buf = vec![0; 64 << 10];
    let end = image.virtual_size().min(READ_BYTES);
    for offset in (0..end).step_by(buf.len()) {
        image.read_exact_at(offset, &mut buf)?;
    }
    // Beyond the end, unaligned, and at the largest address: answered, never a panic.
    image.read_exact_at(end, &mut buf)?;
    assert!(image.read_exact_at(1, &mut buf).is_err());
    drop(image.read_exact_at(u64::MAX - 511, &mut buf));
    Ok(())
}

fn check_index(image: &Image) {
    let Some(stack) = image.stack() else {
        return;
    };
    let mappings = stack.index().mappings();
    for (one, next) in mappings.iter().zip(mappings.iter().skip(1)) {
        assert!(one.end() <= next.offset(), "sorted and disjoint");
    }
}
