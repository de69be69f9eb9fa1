//! `obd export CONFIG OUT`.

use std::process::ExitCode;

use layers::config::{ImageConfig, ServiceConfig};
use layers::{Access, Image, tool};
use serde_json::json;

use crate::args::ExportArgs;
use layers::command_line::console::{human, progress_bar, reporter, say};

pub(crate) fn run(args: &ExportArgs, json: bool) -> layers::Result<ExitCode> {
    let service = ServiceConfig::load_or_default(args.service.service_config.as_deref())?;
    let image = Image::open_layers(&ImageConfig::load(&args.config)?, &service, Access::Read)?;
    let bar = progress_bar("exporting");
    let summary = tool::export(&image, &args.out, args.force, &mut reporter(&bar))?;
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
