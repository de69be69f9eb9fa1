//! What the command-line tools do, without the command line.
//!
//! command line -> **tool** -> image, lsmt, zfile, tar, io
//!
//! These are blocking and may take as long as the disk is large. Each reports how many bytes it
//! has dealt with through a callback, so that a caller can draw a progress bar. What they write
//! has its name only when it is whole.

mod commit;
mod diff;

mod export;
mod import;
mod inspect;
mod layer_file;
mod load;
mod merge;
mod pair;
pub mod tcmu;
mod verify;
mod wrapping;
mod zfile;

pub use commit::{CommitSource, NewLayer, NewLayerOptions, commit};
pub use diff::{DiffRange, DiffReport, Disk, diff};
pub use export::{ExportSummary, export};
pub use import::{ImportOptions, ImportSummary, import};
pub use inspect::{FileInfo, LayerInfo, TarInfo, ZFileInfo, inspect};
pub use load::{LoadMode, LoadOptions, LoadReport, run_load};
pub use merge::merge;
pub use pair::{PairInfo, Subject, inspect_pair, pair_up};
pub use verify::{FileReport, verify_config, verify_file};
pub use wrapping::Wrapping;
pub use zfile::{CompressSource, compress, extract, open_zfile, verify_zfile};
