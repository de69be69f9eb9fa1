//! Reading one JSON config file, bounded, with errors that name the place.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::CONFIG_BYTES_MAX;

/// Keys that no field took.
pub(super) type UnknownKeys = BTreeMap<String, serde::de::IgnoredAny>;

/// Reads and parses `path`.
pub(super) fn read<T: DeserializeOwned>(op: &'static str, path: &Path) -> Result<T> {
    let name = path.display().to_string();
    let fail = |source| Error::io(op, source).in_file(&name);
    let file = std::fs::File::open(path).map_err(fail)?;
    let mut text = Vec::new();
    file.take(CONFIG_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(fail)?;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        let detail = format!("larger than {CONFIG_BYTES_MAX} bytes, not a config file");
        return Err(Error::new(ErrorKind::Config, op, detail).in_file(name));
    }
    parse(op, &text).map_err(|error| error.in_file(name))
}

/// Parses JSON text. Strict: no comments, nothing after the document.
pub(super) fn parse<T: DeserializeOwned>(op: &'static str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|error| {
        Error::new(
            ErrorKind::Config,
            op,
            format!("not a valid config: {}", without_values(&error)),
        )
    })
}

/// What is wrong and where. The parser repeats strings that it did not expect; they may be passwords.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match (text.find("string \""), text.rfind(", expected")) {
        (Some(start), Some(end)) if start < end && error.is_data() => {
            let (before, after) = (text.get(..start), text.get(end..));
            format!("{}string{}", before.unwrap_or(""), after.unwrap_or(""))
        }
        _ => text,
    }
}

/// One log line for keys that mean nothing to this version.
pub(super) fn log_unknown(name: &str, unknown: &UnknownKeys) {
    if !unknown.is_empty() {
        let keys: Vec<_> = unknown.keys().map(|key| format!("{key:.40}")).collect();
        log::info!("{name}: ignoring unknown keys: {}", keys.join(", "));
    }
}
