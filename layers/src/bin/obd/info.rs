//! `obd info FILE...`.

use std::path::Path;
use std::process::ExitCode;

use layers::tool::{self, FileInfo, LayerInfo, PairInfo, Subject, ZFileInfo};
use serde_json::{Value, json};

use crate::args::InfoArgs;
use crate::fail;
use layers::command_line::console::{human, say};

pub(crate) fn run(args: &InfoArgs, json: bool) -> layers::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let mut documents = Vec::new();
    for subject in tool::pair_up(&args.files) {
        let told = match &subject {
            Subject::File(path) => file(path, json),
            Subject::Pair { data, index } => pair(data, index.as_deref(), json),
        };
        match told {
            Ok(document) => documents.extend(document),
            Err(error) => code = fail(&error),
        }
    }
    if json {
        say(Value::Array(documents));
    }
    Ok(code)
}

/// Prints what the file is, or returns it as JSON.
fn file(path: &Path, json: bool) -> layers::Result<Option<Value>> {
    let info = tool::inspect(path)?;
    if json {
        return Ok(Some(document(path, &info)));
    }
    print(path, &info);
    Ok(None)
}

fn pair(data: &Path, index: Option<&Path>, json: bool) -> layers::Result<Option<Value>> {
    let info = tool::inspect_pair(data, index)?;
    if json {
        return Ok(Some(pair_document(data, index, &info)));
    }
    say(data.display());
    line(
        "kind",
        match info.is_sparse {
            true => "sparse writable layer",
            false => "append-only writable layer",
        },
    );
    if let Some(index) = index {
        line("index file", index.display());
    }
    line("data file", human(info.data_file_bytes));
    line("on host", human(info.on_host_bytes));
    print_disk(info.virtual_size_bytes, &info.uuid, &info.parent_uuid);
    line("segments", info.segments);
    line("used", human(info.used_bytes));
    line("zeroed", human(info.zeroed_bytes));
    line("garbage", human(info.garbage_bytes));
    Ok(None)
}

fn print(path: &Path, info: &FileInfo) {
    say(format_args!("{}", path.display()));
    line("file", human(info.file_bytes));
    if let Some(tar) = info.tar {
        let (bytes, offset) = (human(tar.payload_bytes), tar.payload_offset_bytes);
        line("tar", format_args!("payload of {bytes} at byte {offset}"));
    }
    if let Some(zfile) = &info.zfile {
        print_zfile(zfile);
    }
    match &info.layer {
        Some(layer) => print_layer(layer),
        None => line("payload", "not a layer"),
    }
}

fn print_zfile(zfile: &ZFileInfo) {
    let (name, kib, blocks) = (
        zfile.algorithm.name(),
        zfile.block_bytes / 1024,
        zfile.blocks,
    );
    line(
        "zfile",
        format_args!("{name}, {blocks} blocks of {kib} KiB"),
    );
    let (from, to) = (human(zfile.original_bytes), human(zfile.compressed_bytes));
    line(
        "ratio",
        format_args!("{:.2} ({from} to {to})", ratio(zfile)),
    );
    line(
        "checksums",
        if zfile.has_block_crc {
            "one for each block"
        } else {
            "none"
        },
    );
}

fn print_layer(layer: &LayerInfo) {
    print_disk(layer.virtual_size_bytes, &layer.uuid, &layer.parent_uuid);
    if !layer.user_tag.is_empty() {
        line("user tag", format_args!("{:?}", layer.user_tag));
    }
    let padding = layer.index_entries - layer.mappings;
    line(
        "index",
        format_args!("{} mappings and {padding} padding entries", layer.mappings),
    );
    line("data", human(layer.data_bytes));
    line("zeroed", human(layer.zeroed_bytes));
    if layer.is_sparse {
        line("kind", "sealed sparse upper");
    }
}

fn print_disk(bytes: u64, uuid: &str, parent_uuid: &str) {
    match bytes {
        0 => line("virtual size", "that of the layers below"),
        _ => line(
            "virtual size",
            format_args!("{} ({bytes} bytes)", human(bytes)),
        ),
    }
    line("uuid", uuid);
    line("parent uuid", parent_uuid);
}

fn line(name: &str, value: impl std::fmt::Display) {
    say(format_args!("  {name:<13} {value}"));
}

/// How many bytes one stored byte stands for.
#[expect(clippy::cast_precision_loss, reason = "printed with two decimals")]
fn ratio(zfile: &ZFileInfo) -> f64 {
    zfile.original_bytes as f64 / zfile.compressed_bytes.max(1) as f64
}

fn document(path: &Path, info: &FileInfo) -> Value {
    json!({
        "file": path.display().to_string(),
        "file_bytes": info.file_bytes,
        "tar": info.tar.map(|tar| json!({
            "payload_offset_bytes": tar.payload_offset_bytes,
            "payload_bytes": tar.payload_bytes,
        })),
        "zfile": info.zfile.map(|zfile| json!({
            "algorithm": zfile.algorithm.name(),
            "block_bytes": zfile.block_bytes,
            "blocks": zfile.blocks,
            "original_bytes": zfile.original_bytes,
            "compressed_bytes": zfile.compressed_bytes,
            "ratio": ratio(&zfile),
            "block_checksums": zfile.has_block_crc,
            "header_final": zfile.is_header_final,
        })),
        "layer": info.layer.as_ref().map(|layer| json!({
            "virtual_size_bytes": layer.virtual_size_bytes,
            "uuid": layer.uuid,
            "parent_uuid": layer.parent_uuid,
            "user_tag": layer.user_tag,
            "index_entries": layer.index_entries,
            "mappings": layer.mappings,
            "data_bytes": layer.data_bytes,
            "zeroed_bytes": layer.zeroed_bytes,
            "sparse": layer.is_sparse,
        })),
    })
}

fn pair_document(data: &Path, index: Option<&Path>, info: &PairInfo) -> Value {
    json!({
        "file": data.display().to_string(),
        "file_bytes": info.data_file_bytes,
        "writable": {
            "index_file": index.map(|index| index.display().to_string()),
            "sparse": info.is_sparse,
            "virtual_size_bytes": info.virtual_size_bytes,
            "uuid": info.uuid,
            "parent_uuid": info.parent_uuid,
            "segments": info.segments,
            "on_host_bytes": info.on_host_bytes,
            "used_bytes": info.used_bytes,
            "zeroed_bytes": info.zeroed_bytes,
            "garbage_bytes": info.garbage_bytes,
        },
    })
}
