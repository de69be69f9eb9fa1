//! `overlaybd-commit`: a writable layer becomes a committed one, or is sealed in place.
//!
//! Source: format reference 10.2.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use layers::command_line::cli11::{self, Failure};
use layers::command_line::compression::{CompressionArgs, algorithm};
use layers::command_line::console::{complain, progress_bar, reporter, say};
use layers::command_line::start_log;
use layers::command_line::upload::{NO_DIGEST, UploadArgs};
use layers::io::{OutputFile, OutputOptions};
use layers::limits::USER_TAG_BYTES_MAX;
use layers::lsmt::compact::CompactOptions;
use layers::lsmt::{Uuid, upper};
use layers::tool::{self, CommitSource, NewLayerOptions, Wrapping};

/// Commit a writable layer: its data in order and without garbage, in one new file.
///
/// With --commit_sealed, DATA_FILE is a sealed layer and the next file is the one to write. With
/// --seal, DATA_FILE itself becomes a read-only layer.
#[derive(Debug, Parser)]
#[command(name = "overlaybd-commit", version)]
struct Args {
    /// Free text in the new layer, at most 256 bytes
    #[arg(short = 'm', value_name = "TEXT")]
    user_tag: Option<String>,
    /// Name of the new layer
    #[arg(long, value_name = "UUID")]
    uuid: Option<String>,
    /// Name of the layer below instead of the one DATA_FILE has
    #[arg(short = 'p', long = "parent-uuid", value_name = "UUID")]
    parent_uuid: Option<String>,
    /// Compress: write a zfile
    #[arg(short = 'z')]
    zfile: bool,
    /// Wrap it into a tar; only with -z
    #[arg(short = 't')]
    tar: bool,
    /// Replace COMMIT_FILE when it exists
    #[arg(short = 'f')]
    force: bool,
    /// Compression: lz4 or zstd
    #[arg(long, value_name = "NAME", default_value = "lz4")]
    algorithm: String,
    #[command(flatten)]
    compression: CompressionArgs,
    /// The layer is a turboOCI one (not supported by this version)
    #[arg(long = "turboOCI", visible_alias = "fastoci")]
    turbo_oci: bool,
    /// Seal DATA_FILE in place; COMMIT_FILE is ignored
    #[arg(long)]
    seal: bool,
    /// DATA_FILE is a sealed layer, and the second file the one to write
    #[arg(long = "commit_sealed")]
    commit_sealed: bool,
    #[command(flatten)]
    upload: UploadArgs,
    /// Log more
    #[arg(long)]
    verbose: bool,
    /// Data file of the layer
    #[arg(value_name = "data_file", value_parser = cli11::existing_file())]
    data: PathBuf,
    /// Index file of the layer
    #[arg(value_name = "index_file")]
    index: Option<PathBuf>,
    /// File to write
    #[arg(value_name = "commit_file")]
    commit: Option<PathBuf>,
}

fn main() -> ExitCode {
    cli11::run(work)
}

fn work(args: &Args) -> Result<(), Failure> {
    start_log(args.verbose);
    args.upload.refuse()?;
    if args.turbo_oci {
        return Err(Failure::new(
            "--turboOCI (--fastoci): turboOCI layers are not supported by this version",
        ));
    }
    if args.seal && args.commit_sealed {
        return Err(Failure::new(
            "--seal and --commit_sealed exclude each other: the one makes a sealed layer, the other reads one",
        ));
    }
    if args.seal {
        return seal(args);
    }
    commit(args)
}

fn seal(args: &Args) -> Result<(), Failure> {
    let index = named(args.index.as_deref(), "index_file", "--seal")?;
    upper::seal(&args.data, index).map_err(|error| Failure::of("failed to perform seal", &error))
}

fn commit(args: &Args) -> Result<(), Failure> {
    let options = options(args)?;
    let (source, target) = if args.commit_sealed {
        let target = named(args.index.as_deref(), "commit_file", "--commit_sealed")?;
        (CommitSource::Sealed(&args.data), target)
    } else {
        let index = named(args.index.as_deref(), "index_file", "a commit")?;
        let target = named(args.commit.as_deref(), "commit_file", "a commit")?;
        let data = &args.data;
        (CommitSource::Pair { data, index }, target)
    };
    let output_options = OutputOptions {
        replace: args.force,
        ..OutputOptions::default()
    };
    let output = OutputFile::create(target, output_options)
        .map_err(|error| Failure::open(target, &error))?;
    let bar = progress_bar("committing");
    let done = tool::commit(source, output, &options, &mut reporter(&bar));
    bar.finish_and_clear();
    done.map_err(|error| Failure::of("failed to perform commit()", &error))?;
    say("overlaybd-commit has committed files SUCCESSFULLY");
    complain(NO_DIGEST);
    Ok(())
}

fn options(args: &Args) -> Result<NewLayerOptions, Failure> {
    let user_tag = args.user_tag.clone().unwrap_or_default().into_bytes();
    if user_tag.len() > USER_TAG_BYTES_MAX {
        let message = format!("-m: the text has {} bytes, at most 256", user_tag.len());
        return Err(Failure::new(message));
    }
    if !args.zfile {
        complain("WARNING option '--bs' and '--algorithm' will be ignored without '-z'");
    }
    let zfile = match args.zfile {
        true => {
            let invalid = || Failure::new("invalid '--algorithm' parameters.");
            let algorithm = algorithm(&args.algorithm).ok_or_else(invalid)?;
            Some(args.compression.options(algorithm, true)?)
        }
        false => None,
    };
    Ok(NewLayerOptions {
        layer: CompactOptions {
            uuid: uuid("--uuid", args.uuid.as_deref()).unwrap_or_default(),
            parent_uuid: uuid("--parent-uuid", args.parent_uuid.as_deref()),
            user_tag,
        },
        wrapping: Wrapping {
            zfile,
            tar: args.tar && args.zfile,
        },
    })
}

/// A name that is none counts as absent, as in the C++ tool.
fn uuid(option: &str, text: Option<&str>) -> Option<Uuid> {
    let text = text?;
    let uuid = Uuid::parse(text);
    if uuid.is_none() {
        complain(format_args!("{option} {text} is no uuid: ignored"));
    }
    uuid
}

fn named<'a>(path: Option<&'a Path>, name: &str, what: &str) -> Result<&'a Path, Failure> {
    path.ok_or_else(|| Failure::new(format!("{name} is required for {what}")))
}
