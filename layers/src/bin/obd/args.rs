//! The command line of `obd`: parsing only.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use layers::lsmt::Uuid;

/// Work with overlaybd images and layers.
#[derive(Debug, Parser)]
#[command(
    name = "obd",
    version,
    after_help = "Exit status: 0 done, 1 failed, 2 bad usage; `obd help diff` has its own."
)]
pub(crate) struct Args {
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Import(ImportArgs),
    Export(ExportArgs),
    Info(InfoArgs),
    Verify(VerifyArgs),
    Diff(DiffArgs),
    Bench(BenchArgs),
    Why(WhyArgs),
    Cache(CacheArgs),
    Trace(TraceArgs),
    Attach(AttachArgs),
    Detach(DetachArgs),
    Ls(LsArgs),
    Doctor(DoctorArgs),
}

/// Turn a raw disk image into one sealed, compressed layer. Holes and zeros are left out.
///
/// The disk gets a whole number of 512-byte sectors: a last partial one is filled up with zeros.
#[derive(Debug, clap::Args)]
pub(crate) struct ImportArgs {
    /// Raw disk image or block device.
    pub(crate) raw: PathBuf,
    /// Layer file to write.
    pub(crate) out: PathBuf,
    /// Compression of the blocks.
    #[arg(long, value_enum, default_value_t = AlgorithmArg::Lz4)]
    pub(crate) algorithm: AlgorithmArg,
    /// KiB in a block before compression: 4, 8, 16, 32 or 64.
    #[arg(long, value_name = "KIB", default_value_t = 4, value_parser = block_kib)]
    pub(crate) bs: u32,
    /// Wrap the layer into a tar, as registries want it.
    #[arg(long)]
    pub(crate) tar: bool,
    /// Name of the layer; all zeros when absent.
    #[arg(long, value_parser = uuid)]
    pub(crate) uuid: Option<Uuid>,
    /// Threads that compress; 0 means one for each CPU.
    #[arg(long, default_value_t = 0)]
    pub(crate) threads: usize,
    /// Replace OUT when it exists.
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum AlgorithmArg {
    Lz4,
    Zstd,
}

/// Write the whole disk of an image to a sparse raw file.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Image config (config.v1.json).
    pub(crate) config: PathBuf,
    /// Raw file to write.
    pub(crate) out: PathBuf,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Replace OUT when it exists.
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// Tell what layer files are: wrapper, compression, layer, and how much of a writable one is used.
#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    /// Layer files. Of a writable layer name both.
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// Check every checksum and every index rule of images or layer files.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Image configs or layer files.
    #[arg(required = true)]
    pub(crate) files: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
}

/// Tell in which MiBs, and in how many sectors, two disks differ.
///
/// What is behind the end of the shorter disk is compared with zeros.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 the same, 1 different, 2 trouble or bad usage.")]
pub(crate) struct DiffArgs {
    /// Image config, layer file (an image of that layer alone), or raw disk image.
    pub(crate) one: PathBuf,
    /// The same, to compare with.
    pub(crate) other: PathBuf,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
}

/// Read an image in this process as fast as it goes and print the rate and latencies.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Image config (config.v1.json).
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
    /// Bytes of one read: a number, or one with k or m.
    #[arg(long, default_value = "4k", value_parser = bytes)]
    pub(crate) size: usize,
    /// Order of the reads. Only places that hold data are read.
    #[arg(long, value_enum, default_value_t = ModeArg::Rand)]
    pub(crate) mode: ModeArg,
    /// Threads, each reading on its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// How long to read.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub(crate) seconds: u32,
}

/// Look at prefetch traces.
#[derive(Debug, clap::Args)]
pub(crate) struct TraceArgs {
    #[command(subcommand)]
    pub(crate) command: TraceCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TraceCommand {
    /// Check a trace and print how much of which layer it reads.
    Show {
        /// Trace file.
        file: PathBuf,
        /// List every read as well: layer, first byte, number of bytes.
        #[arg(long)]
        records: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    Rand,
    Seq,
}

/// Tell how running disks started: what was fetched, and what their reads waited for.
#[derive(Debug, clap::Args)]
pub(crate) struct WhyArgs {
    /// Socket of a disk, or number of a process: all its disks.
    #[arg(value_name = "SOCKET|PID")]
    pub(crate) daemon: PathBuf,
}

/// Look after the cache of remote layers. Safe while daemons use it.
#[derive(Debug, clap::Args)]
pub(crate) struct CacheArgs {
    #[command(subcommand)]
    pub(crate) action: CacheAction,
    #[command(flatten)]
    pub(crate) service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheAction {
    /// List the blobs: how much of each is kept, and who keeps it.
    Ls,
    /// Tell how full the cache is.
    Du,
    /// Evict down to the configured limits now.
    Gc,
    /// Compare all that is kept with its checksums and drop what is damaged; exit 1 if anything was.
    Verify,
    /// Remove every blob that is neither open nor pinned.
    Clear,
    /// Exempt a blob from eviction.
    Pin {
        /// sha256:<64 hex digits>
        digest: String,
    },
    /// Undo pin.
    Unpin {
        /// sha256:<64 hex digits>
        digest: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct ServiceArgs {
    /// Service config; /etc/overlaybd/overlaybd.json if that exists, else built-in defaults.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) service_config: Option<PathBuf>,
}

/// Make a block device of an image and print it: /dev/sdX.
///
/// Needs root, the modules target_core_user and tcm_loop, and a running overlaybd-tcmu.
#[derive(Debug, clap::Args)]
pub(crate) struct AttachArgs {
    /// Image config (config.v1.json). Its path: no commas, at most about 240 bytes.
    pub(crate) config: PathBuf,
    /// Name of the device; one that follows from the path when absent.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Name that the daemon's snapshot API knows the device by.
    #[arg(long, value_name = "ID")]
    pub(crate) dev_id: Option<String>,
    /// MiB of the area that the data of commands passes through.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(crate) data_area_mb: u32,
    /// Seconds that all of it may take.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub(crate) timeout: u32,
}

/// Flush and remove block devices of images.
#[derive(Debug, clap::Args)]
pub(crate) struct DetachArgs {
    /// /dev/sdX, the device's name, or the path of its config.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) devices: Vec<String>,
    /// All devices that obd made; a snapshotter's are detached only by name.
    #[arg(long)]
    pub(crate) all: bool,
    /// Also when it is mounted or in use, and without a flush: what is not written yet is lost.
    #[arg(long)]
    pub(crate) force: bool,
}

/// List the block devices of images: who serves them, their reads, writes and mounts.
#[derive(Debug, clap::Args)]
pub(crate) struct LsArgs {}

/// Tell what this host lacks to have block devices of images, and how to mend it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit status: 0 all is well, 1 not, 2 bad usage.")]
pub(crate) struct DoctorArgs {
    /// First free the devices that a dead daemon left: their commands fail at once. Once they are served again: give
    /// their disks back.
    #[arg(long)]
    pub(crate) unstick: bool,
}

fn block_kib(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(kib @ (4 | 8 | 16 | 32 | 64)) => Ok(kib),
        _ => Err("expected 4, 8, 16, 32 or 64".to_owned()),
    }
}

fn uuid(text: &str) -> Result<Uuid, String> {
    Uuid::parse(text).ok_or_else(|| "expected 8-4-4-4-12 hex digits".to_owned())
}

fn bytes(text: &str) -> Result<usize, String> {
    let (digits, unit) = match text.to_ascii_lowercase().strip_suffix(['k', 'm']) {
        Some(digits) if text.ends_with(['k', 'K']) => (digits.to_owned(), 1 << 10),
        Some(digits) => (digits.to_owned(), 1 << 20),
        None => (text.to_owned(), 1),
    };
    let number: usize = digits
        .parse()
        .map_err(|_| "expected a number such as 4k".to_owned())?;
    match number.checked_mul(unit) {
        Some(bytes) if bytes > 0 && bytes <= 64 << 20 && bytes % 512 == 0 => Ok(bytes),
        _ => Err("expected a multiple of 512 up to 64m".to_owned()),
    }
}
