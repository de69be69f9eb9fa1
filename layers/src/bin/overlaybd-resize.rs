//! `overlaybd-resize`: makes the disk of a writable image larger.
//!
//! Source: format reference 1.12, 10.5.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use layers::Service;
use layers::command_line::cli11::{self, Failure};
use layers::command_line::console::say;
use layers::command_line::start_log;
use layers::config::ImageConfig;
use layers::{Access, Image};

const GIB: u64 = 1 << 30;

/// Source: the kernel's documentation of ext4, "The Super Block".
const SUPERBLOCK_BYTE: u64 = 1024;
const EXT4_MAGIC_AT: usize = 0x38;
const EXT4_MAGIC: [u8; 2] = [0x53, 0xEF];

/// Exit status of all that fails once the command line is understood.
const FAILED: u8 = 1;

/// Make the disk of a writable image larger.
///
/// The C++ tool resizes the ext4 file system on the disk as well. This version cannot, and so refuses
/// a disk that has one, unless --device-only says that the file system is somebody else's business.
#[derive(Debug, Parser)]
#[command(name = "overlaybd-resize", version)]
struct Args {
    /// Image config (config.v1.json); it must have an upper
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// New size of the disk in GiB
    #[arg(long, value_name = "GB")]
    size: String,
    /// Leave the file system as it is: resize2fs makes it larger once the disk is served
    #[arg(long = "device-only")]
    device_only: bool,
    /// Service config; /etc/overlaybd/overlaybd.json if that exists, else built-in defaults
    #[arg(long = "service_config_path", value_name = "FILE")]
    service_config: Option<PathBuf>,
    /// Log more
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    cli11::run(|args| work(args).map_err(|failure| failure.with_code(FAILED)))
}

fn work(args: &Args) -> Result<(), Failure> {
    start_log(args.verbose);
    let started = Instant::now();
    let size = args.size.parse().ok().filter(|gib: &u64| *gib > 0);
    let bytes = size.and_then(|gib| gib.checked_mul(GIB));
    let bytes = bytes.filter(|bytes| i64::try_from(*bytes).is_ok());
    let invalid = || Failure::new(format!("invalid size: {}", args.size));
    let bytes = bytes.ok_or_else(invalid)?;
    let service = Service::load_or_default(args.service_config.as_deref())
        .map_err(|error| Failure::of("failed to create image service", &error))?;
    // No result file: that tells how the daemon fared.
    let image = ImageConfig::load(&args.config)
        .and_then(|config| Image::open_layers(&config, &service, Access::Write))
        .map_err(|error| Failure::of("failed to open overlaybd image", &error))?;
    if !image.is_writable() {
        return Err(Failure::new("resize failed: the image has no upper"));
    }
    if !args.device_only && has_ext4(&image)? {
        return Err(Failure::new(
            "resize failed: there is an ext4 file system on the disk, and this version cannot resize \
             it; --device-only makes only the disk larger",
        ));
    }
    resize(&image, bytes)?;
    let (gib, seconds) = (bytes / GIB, started.elapsed().as_secs_f64());
    say(format_args!(
        "Success: device resized to {gib} GB ({seconds:.3} seconds)"
    ));
    Ok(())
}

/// ext2, ext3 and ext4 have the same magic number in their superblock.
fn has_ext4(image: &Image) -> Result<bool, Failure> {
    let mut sector = [0; 512];
    image
        .read_exact_at(SUPERBLOCK_BYTE, &mut sector)
        .map_err(|error| Failure::of("resize failed", &error))?;
    Ok(sector.get(EXT4_MAGIC_AT..EXT4_MAGIC_AT + 2) == Some(&EXT4_MAGIC))
}

fn resize(image: &Image, bytes: u64) -> Result<(), Failure> {
    let now = image.virtual_size();
    if bytes < now {
        let detail = "without its file system a disk cannot be made smaller";
        return Err(Failure::new(format!(
            "resize failed: {now} bytes now: {detail}"
        )));
    }
    image
        .grow(bytes)
        .map_err(|error| Failure::of("resize failed", &error))
}
