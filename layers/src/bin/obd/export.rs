//! `obd export CONFIG OUT`.

use std::process::ExitCode;

use layers::Service;
use layers::config::ImageConfig;
use layers::io::{OutputFile, OutputOptions};
use layers::tool;
use serde_json::json;

use crate::args::ExportArgs;
use layers::command_line::console::{human, progress_bar, reporter, say};

pub(crate) fn run(args: &ExportArgs, json: bool) -> layers::Result<ExitCode> {
    let service = Service::load_or_default(args.service.service_config.as_deref())?;
    let config = ImageConfig::load(&args.config)?;
    let options = OutputOptions {
        replace: args.force,
        mode: 0o666,
    };
    let output = OutputFile::create(&args.out, options)?;
    output.check_is_not(&args.config)?;
    let bar = progress_bar("exporting");
    let summary = tool::export(&config, &service, output, &mut reporter(&bar))?;
    bar.finish_and_clear();
    let (disk, data) = (summary.virtual_size_bytes, summary.data_bytes);
    if json {
        say(json!({ "virtual_size_bytes": disk, "data_bytes": data }));
    } else {
        let (out, disk, data) = (args.out.display(), human(disk), human(data));
        say(format_args!("{out}: a disk of {disk}, {data} of it data"));
    }
    Ok(ExitCode::SUCCESS)
}
