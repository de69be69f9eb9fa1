//! `obd`, the operator's tool: import, export, inspect, verify and measure overlaybd images.

mod args;
mod bench;
mod console;
mod export;
mod import;
mod info;
mod verify;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;

fn main() -> ExitCode {
    let args = Args::parse();
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .parse_default_env()
        .init();
    let done = match &args.command {
        Command::Import(command) => import::run(command, args.json),
        Command::Export(command) => export::run(command, args.json),
        Command::Info(command) => info::run(command, args.json),
        Command::Verify(command) => verify::run(command, args.json),
        Command::Bench(command) => bench::run(command, args.json),
    };
    console::exit_code(done.unwrap_or_else(|error| console::fail(&error)))
}
