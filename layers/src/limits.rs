//! Every bound the engine puts on what it reads, in one place.
//!
//! Source: format reference 1.3, 1.4, 1.10, 1.13 (LSMT), 2.4, 2.5 (ZFile), 4.6 (file lists).

/// The unit of LSMT addresses, in bytes.
pub const SECTOR_BYTES: u64 = 512;

/// Most read-only layers in one image.
pub const LAYERS_MAX: usize = 255;

/// Most index entries of one sealed or committed layer, padding entries included.
pub const LAYER_INDEX_ENTRIES_MAX: u64 = 1_000_000;

/// Most mappings of a merged index.
pub const MERGED_MAPPINGS_MAX: usize = 128_000_000;

/// Most entries in the index log of a writable layer, padding entries included.
pub const LOG_ENTRIES_MAX: u64 = 128_000_000;

/// Longest run of sectors in one index entry: 14 bits.
pub const MAPPING_SECTORS_MAX: u64 = (1 << 14) - 1;

/// Sector addresses are below this; the value itself marks a padding entry (50 bits).
pub const SECTOR_INVALID: u64 = (1 << 50) - 1;

/// Largest disk in bytes: every sector has an address.
pub const DISK_BYTES_MAX: u64 = SECTOR_INVALID * SECTOR_BYTES;

/// Highest sector inside a blob: 55 bits.
pub const BLOB_SECTOR_MAX: u64 = (1 << 55) - 1;

/// Longest user tag of a layer, in bytes.
pub const USER_TAG_BYTES_MAX: usize = 256;

/// Most blocks of one zfile.
pub const ZFILE_BLOCKS_MAX: u64 = 1_000_000_000;

/// Smallest and largest uncompressed zfile block.
pub const ZFILE_BLOCK_BYTES_MIN: u32 = 4096;
/// See [`ZFILE_BLOCK_BYTES_MIN`].
pub const ZFILE_BLOCK_BYTES_MAX: u32 = 65536;

/// Most bytes by which an incompressible zfile block may grow, checksum included.
pub const ZFILE_BLOCK_GROWTH_BYTES_MAX: u32 = 516;

/// Most threads that compress one zfile.
pub const ZFILE_WRITER_THREADS_MAX: usize = 256;

/// Most lowers opened at once. Opening a remote one is waiting for a few round trips.
pub const PARALLEL_OPENS_MAX: usize = 128;

/// Largest config file that is read.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Most records of a prefetch trace.
pub const TRACE_RECORDS_MAX: usize = 1_000_000;

/// Largest list of files to prefetch.
pub const FILE_LIST_BYTES_MAX: usize = 65536;

const _: () = assert!(MAPPING_SECTORS_MAX < SECTOR_INVALID);
const _: () = assert!(ZFILE_BLOCK_BYTES_MIN.is_power_of_two());
const _: () = assert!(ZFILE_BLOCK_BYTES_MAX.is_power_of_two());
