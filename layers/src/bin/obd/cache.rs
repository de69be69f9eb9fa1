//! `obd cache ls|du|gc|verify|clear|pin|unpin`.

use std::process::ExitCode;

use layers::cache::admin::{Admin, BlobCheck, BlobReport};
use layers::config::ServiceConfig;
use serde_json::{Value, json};

use crate::args::{CacheAction, CacheArgs};
use layers::command_line::console::{human, say};

pub(crate) fn run(args: &CacheArgs, json: bool) -> layers::Result<ExitCode> {
    let config = ServiceConfig::load_or_default(args.service.service_config.as_deref())?;
    let admin = Admin::open(&config.cache)?;
    let document = match &args.action {
        CacheAction::Ls => list(&admin, json)?,
        CacheAction::Du => usage(&admin, json)?,
        CacheAction::Gc => {
            let bytes = admin.collect()?;
            tell(json, format_args!("{} given back", human(bytes)));
            json!({ "evicted_bytes": bytes })
        }
        CacheAction::Verify => return verify(&admin, json),
        CacheAction::Clear => clear(&admin, json)?,
        CacheAction::Pin { digest } => {
            admin.pin(digest)?;
            tell(json, format_args!("{digest}: pinned"));
            json!({ "digest": digest, "pinned": true })
        }
        CacheAction::Unpin { digest } => {
            admin.unpin(digest)?;
            tell(json, format_args!("{digest}: not pinned any more"));
            json!({ "digest": digest, "pinned": false })
        }
    };
    if json {
        say(document);
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line for people.
fn tell(json: bool, line: impl std::fmt::Display) {
    if !json {
        say(line);
    }
}

fn list(admin: &Admin, json: bool) -> layers::Result<Value> {
    let blobs = admin.list()?;
    if !blobs.is_empty() {
        tell(
            json,
            format_args!("{:>12} {:>12}  {:<15} BLOB", "KEPT", "OF", "STATE"),
        );
    }
    for blob in &blobs {
        let kept = human(blob.present_bytes);
        let size = blob.blob_bytes.map_or_else(|| "unknown".to_owned(), human);
        let state = state(blob);
        tell(
            json,
            format_args!("{kept:>12} {size:>12}  {state:<15} {}", blob.digest),
        );
    }
    Ok(Value::Array(blobs.iter().map(document).collect()))
}

fn state(blob: &BlobReport) -> &'static str {
    match (blob.is_in_use, blob.is_pinned) {
        (true, true) => "in use, pinned",
        (true, false) => "in use",
        (false, true) => "pinned",
        (false, false) => "",
    }
}

fn document(blob: &BlobReport) -> Value {
    json!({
        "digest": blob.digest,
        "blob_bytes": blob.blob_bytes,
        "present_bytes": blob.present_bytes,
        "disk_bytes": blob.disk_bytes,
        "last_use": blob.last_use,
        "in_use": blob.is_in_use,
        "pinned": blob.is_pinned,
    })
}

fn usage(admin: &Admin, json: bool) -> layers::Result<Value> {
    let usage = admin.usage()?;
    let path = admin.path().display();
    let (bytes, limit) = (human(usage.disk_bytes), human(usage.limit_bytes));
    tell(
        json,
        format_args!("{path}: {bytes} of {limit}, {} blobs", usage.blobs),
    );
    Ok(json!({
        "directory": path.to_string(),
        "disk_bytes": usage.disk_bytes,
        "limit_bytes": usage.limit_bytes,
        "blobs": usage.blobs,
    }))
}

fn verify(admin: &Admin, json: bool) -> layers::Result<ExitCode> {
    let checks = admin.verify(&mut |check| {
        let (digest, bytes) = (&check.digest, human(check.checked_bytes));
        match check.dropped_blocks {
            0 => tell(json, format_args!("{digest}: sound: {bytes}")),
            blocks => tell(
                json,
                format_args!("{digest}: DAMAGED: {blocks} blocks of 4 KiB dropped, {bytes} sound"),
            ),
        }
    })?;
    if json {
        say(Value::Array(checks.iter().map(check_document).collect()));
    }
    Ok(match checks.iter().all(|check| check.dropped_blocks == 0) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn check_document(check: &BlobCheck) -> Value {
    json!({
        "digest": check.digest,
        "checked_bytes": check.checked_bytes,
        "dropped_blocks": check.dropped_blocks,
    })
}

fn clear(admin: &Admin, json: bool) -> layers::Result<Value> {
    let (bytes, staying) = admin.clear()?;
    tell(json, format_args!("{} given back", human(bytes)));
    for digest in &staying {
        tell(json, format_args!("{digest}: in use or pinned, stays"));
    }
    Ok(json!({ "removed_bytes": bytes, "staying": staying }))
}
