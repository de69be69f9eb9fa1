//! Any bytes as an ext4 file system: all files are looked up.
#![no_main]

use layers::ReadAt;
use layers::io::MemoryFile;
use layers::prefetch::Ext4;

/// Most files whose places are asked for.
const FILES_MAX: usize = 200;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let disk = MemoryFile::new("disk", bytes.to_vec());
    let Ok(file_system) = Ext4::open(&disk) else {
        return;
    };
    for path in ["/", "link/file", "dir/sub/../file", "long-link"] {
        let Ok(Some(inode)) = file_system.find(path) else {
            continue;
        };
        let files = file_system.files_below(inode).unwrap_or_default();
        for file in files.into_iter().take(FILES_MAX) {
            let ranges = file_system.ranges(file).unwrap_or_default();
            let inside = ranges
                .iter()
                .all(|range| range.start < range.end && range.end <= disk.size());
            assert!(inside, "a range outside of the disk");
        }
    }
});
