//! `overlaybd-create`: the two files of a new, empty writable layer.
//!
//! Source: format reference 10.1.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use layers::ErrorKind;
use layers::command_line::cli11::{self, Failure};
use layers::command_line::console::{complain, say};
use layers::command_line::start_log;
use layers::lsmt::Uuid;
use layers::lsmt::upper::{self, CreateOptions, UpperKind};

const GIB: u64 = 1 << 30;

/// Create the two files of a writable layer.
#[derive(Debug, Parser)]
#[command(name = "overlaybd-create", version)]
struct Args {
    /// Name of the layer below
    #[arg(short = 'u', value_name = "UUID")]
    parent_uuid: Option<String>,
    /// A sparse layer instead of an append-only one
    #[arg(short = 's')]
    sparse: bool,
    /// A turboOCI layer (not supported by this version)
    #[arg(long = "turboOCI", visible_alias = "fastoci")]
    turbo_oci: bool,
    /// DATA_FILE is a bare sparse disk, INDEX_FILE empty
    #[arg(long)]
    raw: bool,
    /// Make an ext4 file system in it (not supported by this version)
    #[arg(long)]
    mkfs: bool,
    /// Log more
    #[arg(long)]
    verbose: bool,
    /// Data file to create
    #[arg(value_name = "data_file")]
    data: PathBuf,
    /// Index file to create
    #[arg(value_name = "index_file")]
    index: PathBuf,
    /// Size of the disk in GiB; 0 takes that of the layers below
    #[arg(value_name = "vsize")]
    size_gib: u64,
}

fn main() -> ExitCode {
    cli11::run(work)
}

fn work(args: &Args) -> Result<(), Failure> {
    start_log(args.verbose);
    if args.turbo_oci {
        return Err(Failure::new(
            "--turboOCI (--fastoci): turboOCI layers are not supported by this version",
        ));
    }
    if args.mkfs {
        return Err(Failure::new(
            "--mkfs: this version makes no file systems; create without it and format the disk \
             that is served",
        ));
    }
    let bytes = args.size_gib.checked_mul(GIB);
    let bytes = bytes.filter(|bytes| i64::try_from(*bytes).is_ok());
    let too_large = || Failure::new(format!("vsize {} GiB is too large", args.size_gib));
    let virtual_size_bytes = bytes.ok_or_else(too_large)?;
    let created = if args.raw {
        upper::create_raw(&args.data, &args.index, virtual_size_bytes)
    } else {
        let options = CreateOptions {
            kind: match args.sparse {
                true => UpperKind::Sparse,
                false => UpperKind::AppendOnly,
            },
            virtual_size_bytes,
            parent_uuid: parent_uuid(args),
        };
        upper::create(&args.data, &args.index, options).map(|_| ())
    };
    created.map_err(|error| explain(args, &error))?;
    say("overlaybd-create has created files SUCCESSFULLY");
    Ok(())
}

/// A name that is none counts as nil, as in the C++ tool.
fn parent_uuid(args: &Args) -> Uuid {
    let Some(text) = &args.parent_uuid else {
        return Uuid::NIL;
    };
    Uuid::parse(text).unwrap_or_else(|| {
        complain(format_args!("-u {text} is no uuid: taking none"));
        Uuid::NIL
    })
}

/// The file that is there already is the one to name.
fn explain(args: &Args, error: &layers::Error) -> Failure {
    let existing = [&args.data, &args.index]
        .into_iter()
        .find(|path| error.kind() == ErrorKind::Exists && path.symlink_metadata().is_ok());
    match existing {
        Some(path) => Failure::open(path, error),
        // One of them was in the way of the other.
        None if error.kind() == ErrorKind::Exists => {
            let (data, index) = (args.data.display(), args.index.display());
            Failure::new(format!(
                "data_file {data} and index_file {index} are the same file"
            ))
        }
        None => Failure::of("failed to create files", error),
    }
}
