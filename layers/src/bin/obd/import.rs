//! `obd import RAW OUT`.

use std::num::NonZero;
use std::process::ExitCode;

use layers::limits::ZFILE_WRITER_THREADS_MAX;
use layers::tool::{self, ImportOptions};
use layers::zfile::{Algorithm, BuildOptions};
use serde_json::json;

use crate::args::{AlgorithmArg, ImportArgs};
use layers::command_line::console::{human, progress_bar, reporter, say};

pub(crate) fn run(args: &ImportArgs, json: bool) -> layers::Result<ExitCode> {
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);
    let cpus = cpus.min(ZFILE_WRITER_THREADS_MAX);
    let options = ImportOptions {
        zfile: BuildOptions {
            algorithm: match args.algorithm {
                AlgorithmArg::Lz4 => Algorithm::Lz4,
                AlgorithmArg::Zstd => Algorithm::Zstd,
            },
            block_bytes: args.bs * 1024,
            overwrite_header: true,
            threads: if args.threads == 0 {
                cpus
            } else {
                args.threads
            },
        },
        tar: args.tar,
        uuid: args.uuid.unwrap_or_default(),
        replace: args.force,
    };
    let bar = progress_bar("importing");
    let summary = tool::import(&args.raw, &args.out, options, &mut reporter(&bar))?;
    bar.finish_and_clear();
    let (disk, data) = (summary.virtual_size_bytes, summary.layer.data_bytes);
    if json {
        say(json!({
            "virtual_size_bytes": disk,
            "data_bytes": data,
            "file_bytes": summary.file_bytes,
            "mappings": summary.layer.mappings,
        }));
    } else {
        let (out, file) = (args.out.display(), human(summary.file_bytes));
        let (disk, data) = (human(disk), human(data));
        say(format_args!(
            "{out}: {file} for {data} of data on a disk of {disk}"
        ));
    }
    Ok(ExitCode::SUCCESS)
}
