//! `config.v1.json`: which layers make an image.
//!
//! Source: format reference 4.2.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::json::{self, UnknownKeys};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::LAYERS_MAX;

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
    /// Replaces the service config's `download` as a whole.
    pub download: Option<DownloadConfig>,
    /// The last lower only carries a prefetch trace.
    pub acceleration_layer: bool,
    /// Prefetch trace to record or replay.
    pub record_trace_path: PathBuf,
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

/// Background download of whole blobs.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DownloadConfig {
    /// Off by default.
    pub enable: bool,
    /// Seconds before it starts.
    pub delay: u64,
    /// Most seconds of random extra delay.
    pub delay_extra: u64,
    /// MiB per second; 0 is no limit.
    #[serde(rename = "maxMBps")]
    pub max_mbps: u64,
    /// Attempts for each layer.
    pub try_cnt: u32,
    /// Bytes of one request.
    pub block_size: u64,
}

impl Default for DownloadConfig {
    fn default() -> Self {
        Self {
            enable: false,
            delay: 300,
            delay_extra: 30,
            max_mbps: 100,
            try_cnt: 5,
            block_size: 262_144,
        }
    }
}

impl ImageConfig {
    /// Reads and checks a config file. Blocking.
    ///
    /// # Errors
    /// `NotFound` or `Io` when it cannot be read; `Config` when it is not valid JSON, has values of
    /// the wrong type, or too many layers.
    pub fn load(path: &Path) -> Result<Self> {
        let config: Self = json::read(OP, path)?;
        config
            .checked()
            .map_err(|error| error.in_file(path.display().to_string()))?;
        json::log_unknown(&path.display().to_string(), &config.all_unknown());
        Ok(config)
    }

    /// Parses and checks JSON text.
    ///
    /// # Errors
    /// `Config` as in [`ImageConfig::load`].
    pub fn parse(text: &[u8]) -> Result<Self> {
        let config: Self = json::parse(OP, text)?;
        config.checked()?;
        Ok(config)
    }

    fn checked(&self) -> Result<()> {
        if self.lowers.len() > LAYERS_MAX {
            let detail = format!("{} lowers, at most {LAYERS_MAX} allowed", self.lowers.len());
            return Err(Error::new(ErrorKind::Config, OP, detail));
        }
        Ok(())
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

    #[test]
    fn what_the_snapshotter_writes_is_read() {
        let text = br#"{"repoBlobUrl":"https://r/v2/x/blobs","lowers":[{"digest":"sha256:0",
            "size":5,"dir":"/d"},{"file":"/f"}],"upper":{"vsize":64},"resultFile":"/r/init-debug.log",
            "download":{"maxMBps":7}, "hogwash": [1,2]}"#;
        let config = ImageConfig::parse(text).unwrap();
        assert_eq!(config.lowers.len(), 2);
        assert_eq!(config.lowers[0].digest, "sha256:0");
        assert_eq!(config.lowers[1].file, Path::new("/f"));
        assert!(!config.upper.is_present());
        assert_eq!(config.download.as_ref().unwrap().max_mbps, 7);
        assert_eq!(config.download.as_ref().unwrap().delay, 300);
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
    fn two_hundred_and_fifty_six_lowers_are_too_many() {
        let lowers = vec![r#"{"file":"/x"}"#; 256].join(",");
        let error =
            ImageConfig::parse(format!(r#"{{"lowers":[{lowers}]}}"#).as_bytes()).unwrap_err();
        assert!(
            error.to_string().contains("256 lowers, at most 255"),
            "{error}"
        );
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
