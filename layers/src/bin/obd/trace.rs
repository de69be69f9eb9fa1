//! `obd trace show FILE`.

use std::process::ExitCode;

use layers::command_line::console::{human, say};
use layers::prefetch::{LayerReads, Trace, TraceRecord};
use serde_json::{Value, json};

use crate::args::{TraceArgs, TraceCommand};

pub(crate) fn run(args: &TraceArgs, json: bool) -> layers::Result<ExitCode> {
    let TraceCommand::Show { file, records } = &args.command;
    let trace = Trace::load(file)?;
    if json {
        say(document(&trace, *records));
        return Ok(ExitCode::SUCCESS);
    }
    let ignored = match trace.ignored {
        0 => String::new(),
        ignored => format!(", {ignored} records that are no reads"),
    };
    let (path, reads, checksum) = (file.display(), trace.records.len(), trace.checksum);
    say(format_args!(
        "{path}: {reads} reads{ignored}, checksum {checksum:#010x}"
    ));
    for layer in trace.by_layer() {
        let (bytes, distinct) = (human(layer.read_bytes), human(layer.distinct_bytes));
        say(format_args!(
            "  layer {:<3} {:>8} reads of {bytes:>10}, {distinct:>10} of them distinct",
            layer.layer, layer.reads
        ));
    }
    if *records {
        for record in &trace.records {
            say(format_args!(
                "  {:>3} {:>14} {:>8}",
                record.layer, record.offset, record.bytes
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn document(trace: &Trace, records: bool) -> Value {
    let mut document = json!({
        "reads": trace.records.len(),
        "ignored": trace.ignored,
        "checksum": trace.checksum,
        "layers": trace.by_layer().iter().map(layer).collect::<Vec<_>>(),
    });
    if records && let Some(fields) = document.as_object_mut() {
        let records = trace.records.iter().map(record).collect();
        fields.insert("records".to_owned(), records);
    }
    document
}

fn layer(layer: &LayerReads) -> Value {
    json!({
        "layer": layer.layer,
        "reads": layer.reads,
        "read_bytes": layer.read_bytes,
        "distinct_bytes": layer.distinct_bytes,
    })
}

fn record(record: &TraceRecord) -> Value {
    json!({ "layer": record.layer, "offset": record.offset, "bytes": record.bytes })
}
