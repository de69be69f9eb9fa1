//! `obd`, the operator's tool: import, export, inspect, verify,
//! compare and measure overlaybd images, look after the cache, ask running daemons, attach images to the host.

mod args;
mod attach;
mod bench;
mod cache;
mod detach;
mod diff;
mod doctor;
mod export;
mod import;
mod info;
mod ls;
mod trace;
mod verify;
mod why;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use layers::ErrorKind;
use layers::command_line::{self, console};
use layers::tool::tcmu::write_attribute;

fn main() -> ExitCode {
    let args = Args::parse();
    command_line::start_log(false);
    let done = match &args.command {
        Command::Import(command) => import::run(command, args.json),
        Command::Export(command) => export::run(command, args.json),
        Command::Info(command) => info::run(command, args.json),
        Command::Verify(command) => verify::run(command, args.json),
        Command::Diff(command) => diff::run(command, args.json),
        Command::Bench(command) => bench::run(command, args.json),
        Command::Why(command) => why::run(command, args.json),
        Command::Cache(command) => cache::run(command, args.json),
        Command::Trace(command) => trace::run(command, args.json),
        Command::Attach(command) => attach::run(command, args.json),
        Command::Detach(command) => detach::run(command, args.json),
        Command::Ls(_) => Ok(ls::run(args.json)),
        Command::Doctor(command) => Ok(doctor::run(command, args.json)),
        Command::WriteAttribute { path, value } => Ok(write_attribute(path, value).into()),
    };
    let code = done.unwrap_or_else(|error| fail(&error));
    console::exit_code(code, ExitCode::FAILURE)
}

/// Prints the error that ends the program, or its work on one file.
fn fail(error: &layers::Error) -> ExitCode {
    let hint = match error.kind() {
        ErrorKind::Exists => "; -f replaces it",
        _ => "",
    };
    console::complain(format_args!("obd: {error}{hint}"));
    ExitCode::FAILURE
}
