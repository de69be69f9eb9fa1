//! The daemon's command line.
//!
//! Source: format reference 5 and 8; the C++ daemon takes the path of its config and nothing else.

use std::path::PathBuf;

use clap::Parser;
use log::LevelFilter;

/// Serves overlaybd images as block devices of this host, through the kernel's TCMU
/// (target_core_user). One daemon serves all devices of a host; `obd attach` makes one,
/// `obd ls` lists them, `obd doctor` says what a host lacks.
#[derive(Debug, Parser)]
#[command(name = "overlaybd-tcmu", version)]
pub struct Args {
    /// The service config; without it /etc/overlaybd/overlaybd.json, if there is one
    #[arg(value_name = "overlaybd.json")]
    pub config: Option<PathBuf>,

    /// Log level, instead of that of the config: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LevelFilter>,
}
