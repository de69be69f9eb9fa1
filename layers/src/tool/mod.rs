//! What the command-line tools do, without the command line: import, export, inspect, verify,
//! load.
//!
//! These are blocking and may take as long as the disk is large. Each reports how many bytes it
//! has dealt with through a callback, so that a caller can draw a progress bar.

mod export;
mod import;
mod inspect;
mod load;
mod output;
mod unnamed_file;
mod verify;
mod wrapping;

pub use export::{ExportSummary, export};
pub use import::{ImportOptions, ImportSummary, import};
pub use inspect::{FileInfo, LayerInfo, TarInfo, ZFileInfo, inspect};
pub use load::{LoadMode, LoadOptions, LoadReport, run_load};
pub use output::{OutputFile, OutputOptions};
pub use verify::{FileReport, verify_config, verify_file};
pub use wrapping::Wrapping;
