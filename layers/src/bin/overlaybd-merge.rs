//! `overlaybd-merge`: all layers of an image become one.
//!
//! Source: format reference 10.4.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Parser};
use layers::Service;
use layers::command_line::cli11::{self, Failure};
use layers::command_line::compression::threads;
use layers::command_line::console::{complain, progress_bar, reporter};
use layers::command_line::start_log;
use layers::command_line::upload::{NO_DIGEST, UploadArgs};
use layers::config::ImageConfig;
use layers::io::{OutputFile, OutputOptions};
use layers::tool::{self, NewLayerOptions, Wrapping};
use layers::zfile::BuildOptions;

/// Merge the layers of an image, its writable one included, into one layer file.
///
/// An existing OUTPUT is replaced once the new one is whole.
#[derive(Debug, Parser)]
#[command(name = "overlaybd-merge", version)]
struct Args {
    /// Service config; /etc/overlaybd/overlaybd.json if that exists, else built-in defaults
    #[arg(long = "service_config_path", value_name = "FILE", value_parser = cli11::existing_file())]
    service_config: Option<PathBuf>,
    /// Compress: write a zfile
    #[arg(
        long,
        action = ArgAction::Set,
        value_name = "BOOL",
        value_parser = cli11::truth,
        num_args = 0..=1,
        require_equals = true,
        default_value = "true",
        default_missing_value = "true",
        overrides_with = "compress"
    )]
    compress: bool,
    /// Threads that compress; 0 means one for each CPU
    #[arg(long = "compress_threads", value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Has no effect, as in the C++ tool
    #[arg(short = 't')]
    tar: bool,
    #[command(flatten)]
    upload: UploadArgs,
    /// Log more
    #[arg(long)]
    verbose: bool,
    /// Image config (config.v1.json)
    #[arg(value_name = "image_config_path", value_parser = cli11::existing_file())]
    config: PathBuf,
    /// Layer file to write
    #[arg(value_name = "output")]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    cli11::run(work)
}

fn work(args: &Args) -> Result<(), Failure> {
    start_log(args.verbose);
    args.upload.refuse()?;
    let config = ImageConfig::load(&args.config)
        .map_err(|error| Failure::of("failed to create image file", &error))?;
    let service = Service::load_or_default(args.service_config.as_deref())
        .map_err(|error| Failure::of("failed to create image service", &error))?;
    let Some(path) = &args.output else {
        return Err(Failure::new("failed to create output file: none is named"));
    };
    let output_options = OutputOptions {
        replace: true,
        ..OutputOptions::default()
    };
    let output = OutputFile::create(path, output_options)
        .and_then(|output| output.check_is_not(&args.config).map(|()| output))
        .map_err(|error| Failure::of("failed to create output file", &error))?;
    let zfile = args.compress.then(|| BuildOptions {
        overwrite_header: false,
        threads: threads(args.threads),
        ..BuildOptions::default()
    });
    let options = NewLayerOptions {
        wrapping: Wrapping { zfile, tar: false },
        ..NewLayerOptions::default()
    };
    let bar = progress_bar("merging");
    let done = tool::merge(&config, &service, output, &options, &mut reporter(&bar));
    bar.finish_and_clear();
    done.map_err(|error| Failure::of("failed to compact", &error))?;
    complain(NO_DIGEST);
    Ok(())
}
