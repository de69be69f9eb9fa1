//! What the programs have in common: arguments in, results and failures out.
//!
//! command line -> **command line module** -> tool
//!
//! The `overlaybd-*` programs answer to the command lines of the C++ tools of that name
//! ([`cli11`]); `obd` has a command line of its own. Results go to stdout; failures, warnings and
//! progress to stderr.

pub mod cli11;
pub mod compression;
pub mod console;
pub mod upload;

/// Starts the log, on stderr: warnings and errors, everything with `verbose`, or what `RUST_LOG`
/// says.
pub fn start_log(verbose: bool) {
    let level = match verbose {
        true => log::LevelFilter::Debug,
        false => log::LevelFilter::Warn,
    };
    env_logger::Builder::new()
        .filter_level(level)
        .parse_default_env()
        .init();
}
