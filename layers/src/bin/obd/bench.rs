//! `obd bench CONFIG`.

use std::process::ExitCode;
use std::time::Duration;

use layers::Service;
use layers::config::ImageConfig;
use layers::tool::{LoadMode, LoadOptions, LoadReport, run_load};
use layers::{Access, Image};
use serde_json::json;

use crate::args::{BenchArgs, ModeArg};
use layers::command_line::console::say;

/// Percentiles shown.
const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];

pub(crate) fn run(args: &BenchArgs, json: bool) -> layers::Result<ExitCode> {
    let service = Service::load_or_default(args.service.service_config.as_deref())?;
    let image = Image::open_layers(&ImageConfig::load(&args.config)?, &service, Access::Read)?;
    let options = LoadOptions {
        size_bytes: args.size,
        mode: match args.mode {
            ModeArg::Rand => LoadMode::Random,
            ModeArg::Seq => LoadMode::Sequential,
        },
        threads: usize::from(args.threads),
        duration: Duration::from_secs(u64::from(args.seconds)),
    };
    let report = run_load(&image, options)?;
    let (iops, mb_per_second) = rates(&report, args.size);
    let nanos = |quantile| report.latencies.value_at_quantile(quantile);
    let micros = |quantile| Duration::from_nanos(nanos(quantile)).as_secs_f64() * 1e6;
    if json {
        let latency_us: serde_json::Map<_, _> = PERCENTILES
            .map(|(name, at)| (name.to_owned(), json!(micros(at))))
            .into_iter()
            .collect();
        say(json!({
            "iops": iops,
            "mb_per_second": mb_per_second,
            "latency_us": latency_us,
            "reads": report.reads,
            "pending": report.pending,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!("{iops:.0} reads/s, {mb_per_second:.1} MB/s"));
    let shown = PERCENTILES
        .map(|(name, at)| format!("{name} {:.2}", micros(at)))
        .join(", ");
    say(format_args!("latency in us: {shown}"));
    say(format_args!(
        "{} reads, {} of them waited for a disk",
        report.reads, report.pending
    ));
    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::cast_precision_loss, reason = "printed with few digits")]
fn rates(report: &LoadReport, size: usize) -> (f64, f64) {
    let iops = report.reads as f64 / report.elapsed.as_secs_f64();
    (iops, iops * size as f64 / 1e6)
}
