//! `overlaybd-tcmu`: serves overlaybd images to the host's kernel.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use layers::log_file::LogOutput;
use log::LevelFilter;
use tcmu::{args::Args, serve};

fn main() -> ExitCode {
    let args = Args::parse();
    let log_output = LogOutput::default();
    env_logger::Builder::new()
        .filter_level(LevelFilter::Trace)
        .target(env_logger::Target::Pipe(Box::new(log_output.clone())))
        .init();
    log::set_max_level(args.log_level.unwrap_or(LevelFilter::Info));
    match serve::run(&args, &log_output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if log_output.is_file() {
                log::error!("{error}");
            }
            // Also when logging is off.
            drop(writeln!(std::io::stderr(), "overlaybd-tcmu: {error}"));
            ExitCode::FAILURE
        }
    }
}
