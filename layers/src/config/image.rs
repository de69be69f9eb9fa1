//! `config.v1.json`: which layers make an image.
//!
//! Source: format reference 4.2.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::json::{self, UnknownKeys};
use super::remote::DownloadConfig;
use crate::error::Result;

const OP: &str = "read image config";

/// An image config. Paths and names are kept as written; empty means absent.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageConfig {
    /// URL prefix of registry blobs.
    pub repo_blob_url: String,
    /// Read-only layers, bottom first.
    pub lowers: Vec<LowerConfig>,
    /// Writable layer; both paths empty for a read-only image.
    pub upper: UpperConfig,
    /// Where `success` or `failed:<message>` goes after an open.
    pub result_file: PathBuf,
    /// Background download; instead of the host's settings, not beside them.
    pub download: Option<DownloadConfig>,
    /// The last lower only carries a prefetch trace.
    pub acceleration_layer: bool,
    /// Prefetch trace to record or replay.
    pub record_trace_path: PathBuf,
    /// Ours: how long reads wait for a registry that is gone, in seconds; instead of the host's.
    pub read_retry_seconds: Option<u64>,
    #[serde(flatten)]
    unknown: UnknownKeys,
}

/// One read-only layer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LowerConfig {
    /// Local path; the first choice when it exists.
    pub file: PathBuf,
    /// Directory that holds the layer under a well-known name.
    pub dir: PathBuf,
    /// `sha256:...` name of the blob.
    pub digest: String,
    /// Blob size in bytes.
    pub size: u64,
    /// turboOCI: local target.
    pub target_file: PathBuf,
    /// turboOCI: remote target.
    pub target_digest: String,
    /// turboOCI: index of a gzip target.
    pub gzip_index: PathBuf,
    #[serde(flatten)]
    unknown: UnknownKeys,
}

/// The writable layer.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpperConfig {
    /// Index log.
    pub index: PathBuf,
    /// Data file.
    pub data: PathBuf,
    /// turboOCI: target.
    pub target: PathBuf,
    /// turboOCI: index of a gzip target.
    pub gzip_index: PathBuf,
}

impl UpperConfig {
    /// True when the config names a writable layer.
    #[must_use]
    pub fn is_present(&self) -> bool {
        !self.index.as_os_str().is_empty() && !self.data.as_os_str().is_empty()
    }
}

impl ImageConfig {
    /// Reads and checks a config file. Blocking.
    ///
    /// # Errors
    /// `NotFound` or `Io` when it cannot be read; `Config` when it is not valid JSON or has values
    /// of the wrong type.
    pub fn load(path: &Path) -> Result<Self> {
        let config: Self = json::read(OP, path)?;
        json::log_unknown(&path.display().to_string(), &config.all_unknown());
        Ok(config)
    }

    /// Parses and checks JSON text.
    ///
    /// # Errors
    /// `Config` as in [`ImageConfig::load`].
    pub fn parse(text: &[u8]) -> Result<Self> {
        json::parse(OP, text)
    }

    fn all_unknown(&self) -> UnknownKeys {
        let lowers = self.lowers.iter().flat_map(|lower| lower.unknown.keys());
        let in_lowers = lowers.map(|key| (format!("lowers[].{key}"), serde::de::IgnoredAny));
        let top = self
            .unknown
            .keys()
            .map(|key| (key.clone(), serde::de::IgnoredAny));
        in_lowers.chain(top).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_the_snapshotter_writes_is_read() {
        let text = br#"{"repoBlobUrl":"https://r/v2/x/blobs","lowers":[{"digest":"sha256:0",
            "size":5,"dir":"/d"},{"file":"/f"}],"upper":{"vsize":64},"resultFile":"/r/init-debug.log",
            "download":{"maxMBps":-1}, "hogwash": [1,2]}"#;
        let config = ImageConfig::parse(text).unwrap();
        assert_eq!(config.lowers.len(), 2);
        assert_eq!(config.lowers[0].digest, "sha256:0");
        assert_eq!(config.lowers[1].file, Path::new("/f"));
        assert!(!config.upper.is_present());
        assert_eq!(config.all_unknown().keys().collect::<Vec<_>>(), ["hogwash"]);
    }

    #[test]
    fn comments_trailing_bytes_and_wrong_types_are_refused() {
        for text in [
            &b"{} x"[..],
            b"{/* */}",
            b"[]",
            br#"{"lowers":{}}"#,
            br#"{"lowers":[1]}"#,
            b"",
        ] {
            let error = ImageConfig::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{text:?}");
        }
    }

    #[test]
    fn a_deeply_nested_config_is_refused_not_followed() {
        let text = format!("{}{}", r#"{"x":"#.repeat(100_000), "}".repeat(100_000));
        assert_eq!(
            ImageConfig::parse(text.as_bytes()).unwrap_err().kind(),
            ErrorKind::Config
        );
    }
}
