//! `overlaybd-zfile`: compress a file or stdin into a zfile, extract one, verify one.
//!
//! Source: format reference 10.6.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use layers::ErrorKind;
use layers::command_line::cli11::{self, Failure};
use layers::command_line::compression::{CompressionArgs, algorithm};
use layers::command_line::console::{complain, progress_bar, reporter, say};
use layers::command_line::start_log;
use layers::io::{OutputFile, OutputOptions};
use layers::tool::{self, CompressSource, Wrapping};
use layers::zfile::Algorithm;

/// Damaged blocks that are shown.
const FAULTS_SHOWN: usize = 20;

/// Permissions that the C++ tool gives what it extracts.
const EXTRACTED_MODE: u32 = 0o700;

/// Compress SOURCE_FILE into TARGET_FILE so that any part of it can be read alone.
///
/// With one file only, stdin is compressed into that file.
#[derive(Debug, Parser)]
#[command(name = "overlaybd-zfile", version)]
struct Args {
    /// Wrap the zfile into a tar; with -x: unwrap it
    #[arg(short = 't')]
    tar: bool,
    /// Extract SOURCE_FILE, a zfile
    #[arg(short = 'x')]
    extract: bool,
    /// Check every block of SOURCE_FILE, a zfile
    #[arg(long)]
    verify: bool,
    /// Replace TARGET_FILE when it exists
    #[arg(short = 'f')]
    force: bool,
    /// Compression: lz4 or zstd
    #[arg(long, value_name = "NAME", default_value = "lz4")]
    algorithm: String,
    #[command(flatten)]
    compression: CompressionArgs,
    /// Log more
    #[arg(long)]
    verbose: bool,
    /// File to read
    #[arg(value_name = "source_file")]
    source: PathBuf,
    /// File to write
    #[arg(value_name = "target_file")]
    target: Option<PathBuf>,
}

fn main() -> ExitCode {
    cli11::run(work)
}

fn work(args: &Args) -> Result<(), Failure> {
    start_log(args.verbose);
    match (&args.target, args.verify, args.extract) {
        (_, true, _) => verify(&args.source),
        (Some(target), _, true) => extract(args, target),
        (None, _, true) => Err(Failure::new(
            "-x reads a file, not stdin: name the zfile and the file to write",
        )),
        (Some(target), _, _) => compress_file(args, target),
        (None, ..) => compress(args, "stdin", None, &mut io::stdin().lock(), &args.source),
    }
}

fn compress_file(args: &Args, target: &Path) -> Result<(), Failure> {
    let name = args.source.display().to_string();
    let opened = File::open(&args.source).and_then(|file| Ok((file.metadata()?, file)));
    let (metadata, mut file) =
        opened.map_err(|error| Failure::new(format!("failed to open file {name}: {error}")))?;
    let size = metadata.is_file().then_some(metadata.len());
    compress(args, &name, size, &mut file, target)
}

fn compress(
    args: &Args,
    name: &str,
    size: Option<u64>,
    bytes: &mut dyn Read,
    target: &Path,
) -> Result<(), Failure> {
    let algorithm = algorithm(&args.algorithm).unwrap_or_else(|| {
        complain(format_args!(
            "no algorithm '{}': taking lz4",
            args.algorithm
        ));
        Algorithm::Lz4
    });
    let wrapping = Wrapping {
        zfile: Some(args.compression.options(algorithm, false)?),
        tar: args.tar,
    };
    let options = OutputOptions {
        replace: args.force,
        ..OutputOptions::default()
    };
    let output =
        OutputFile::create(target, options).map_err(|error| Failure::open(target, &error))?;
    if size.is_some() {
        let checked = output.check_is_not(&args.source);
        checked.map_err(|error| Failure::open(target, &error))?;
    }
    say(format_args!("compress file {name} as {}", target.display()));
    let source = CompressSource { bytes, name, size };
    let bar = progress_bar("compressing");
    let done = tool::compress(source, output, wrapping, &mut reporter(&bar));
    bar.finish_and_clear();
    done.map_err(|error| Failure::with_errno("compress failed", &error))?;
    say("compress file done.");
    Ok(())
}

fn extract(args: &Args, target: &Path) -> Result<(), Failure> {
    let (source, shown) = (args.source.display(), target.display());
    let options = OutputOptions {
        replace: args.force,
        mode: EXTRACTED_MODE,
    };
    let output =
        OutputFile::create(target, options).map_err(|error| Failure::open(target, &error))?;
    let checked = output.check_is_not(&args.source);
    checked.map_err(|error| Failure::open(target, &error))?;
    say(format_args!("decompress file {source} as {shown}"));
    let bar = progress_bar("extracting");
    let done = tool::open_zfile(&args.source, args.tar)
        .and_then(|zfile| tool::extract(&zfile, output, &mut reporter(&bar)));
    bar.finish_and_clear();
    done.map_err(|error| Failure::with_errno("decompress failed", &error))?;
    say("decompress file done.");
    Ok(())
}

fn verify(source: &Path) -> Result<(), Failure> {
    let name = source.display();
    let zfile = tool::open_zfile(source, true).map_err(|error| match error.kind() {
        ErrorKind::Config => Failure::new("format error! <source_file> should be a zfile."),
        ErrorKind::Corrupt => invalid(source, &error.to_string()),
        _ => Failure::open(source, &error),
    })?;
    if !zfile.has_block_crc() {
        return Err(invalid(source, "it was made without checksums"));
    }
    let bar = progress_bar("verifying");
    let report = tool::verify_zfile(&zfile, &mut reporter(&bar));
    bar.finish_and_clear();
    let report = report.map_err(|error| Failure::with_errno("verify failed", &error))?;
    if report.is_sound() {
        say(format_args!("{name} is a valid zfile blob."));
        return Ok(());
    }
    for fault in report.faults.iter().take(FAULTS_SHOWN) {
        complain(&fault.error);
    }
    let damaged = format!(
        "{} of {} blocks are damaged",
        report.fault_count,
        zfile.block_count()
    );
    Err(invalid(source, &damaged))
}

/// The verdict goes to stdout, the reason to stderr.
fn invalid(source: &Path, reason: &str) -> Failure {
    let name = source.display();
    say(format_args!(
        "{name} is not a valid zfile blob or checksum can't be found."
    ));
    Failure::new(format!("{name}: {reason}"))
}
