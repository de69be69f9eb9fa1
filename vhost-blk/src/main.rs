//! `overlaybd-vhost-blk`: serves overlaybd images to virtual machines.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use log::LevelFilter;
use vhost_blk::{args::Args, serve};

/// As the vhost-user specification wants it from a backend program.
const CAPABILITIES: &str = r#"{"type":"block","features":[]}"#;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.print_capabilities {
        return match writeln!(std::io::stdout(), "{CAPABILITIES}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    env_logger::Builder::new()
        .filter_level(LevelFilter::Trace)
        .init();
    log::set_max_level(args.log_level.unwrap_or(LevelFilter::Info));
    match serve::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Also when logging is off.
            drop(writeln!(std::io::stderr(), "overlaybd-vhost-blk: {error}"));
            ExitCode::FAILURE
        }
    }
}
