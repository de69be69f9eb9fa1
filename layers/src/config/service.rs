//! `overlaybd.json`: settings of a host, shared by its images.
//!
//! Every key of the C++ daemon is accepted. This version serves local layers only, so it uses
//! the log level; keys about registries, caches and TCMU are read by the parts that need them.
//!
//! Source: format reference 5.

use std::path::Path;

use serde::Deserialize;

use super::json::{self, UnknownKeys};
use crate::error::{ErrorKind, Result};

const OP: &str = "read service config";
const DEFAULT_PATH: &str = "/etc/overlaybd/overlaybd.json";

/// Keys that mean something to the C++ daemon; anything else is logged once.
const KNOWN: [&str; 20] = [
    "auditPath",
    "cacheConfig",
    "cacheType",
    "certConfig",
    "credentialConfig",
    "credentialFilePath",
    "download",
    "enableAudit",
    "enableThread",
    "exporterConfig",
    "gzipCacheConfig",
    "ioEngine",
    "logPath",
    "p2pConfig",
    "prefetchConfig",
    "registryCacheDir",
    "registryCacheSizeGB",
    "registryFsVersion",
    "serviceConfig",
    "userAgent",
];

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// 0 debug, 1 info, 2 warn, 3 error.
    pub log_level: u8,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self { log_level: 1 }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    log_config: Option<RawLog>,
    log_level: Option<u8>,
    #[serde(flatten)]
    others: UnknownKeys,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLog {
    log_level: Option<u8>,
    #[serde(default)]
    log_path: String,
}

impl ServiceConfig {
    /// Reads `path`, or the standard place when there is no `path`; built-in defaults when the
    /// standard file does not exist.
    ///
    /// # Errors
    /// As [`ServiceConfig::load`].
    pub fn load_or_default(path: Option<&Path>) -> Result<Self> {
        match path {
            Some(path) => Self::load(path),
            None => match Self::load(Path::new(DEFAULT_PATH)) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
                other => other,
            },
        }
    }

    /// Reads and checks a file. Blocking.
    ///
    /// # Errors
    /// `NotFound`, `Io`, or `Config` for anything that is not a valid service config.
    pub fn load(path: &Path) -> Result<Self> {
        let raw: Raw = json::read(OP, path)?;
        let name = path.display().to_string();
        let unknown = raw
            .others
            .iter()
            .filter(|(key, _)| !KNOWN.contains(&key.as_str()));
        json::log_unknown(
            &name,
            &unknown.map(|(key, value)| (key.clone(), *value)).collect(),
        );
        Ok(raw.check())
    }

    /// Parses and checks JSON text.
    ///
    /// # Errors
    /// `Config`.
    pub fn parse(text: &[u8]) -> Result<Self> {
        Ok(json::parse::<Raw>(OP, text)?.check())
    }
}

impl Raw {
    fn check(&self) -> ServiceConfig {
        // The new block counts only when it names a file, as in the C++ daemon.
        let new = self
            .log_config
            .as_ref()
            .filter(|log| !log.log_path.is_empty());
        let log_level = match new {
            Some(log) => log.log_level,
            None => self.log_level,
        };
        ServiceConfig {
            log_level: log_level.unwrap_or(1).min(3),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_level_comes_from_the_block_that_names_a_file() {
        let parse = |text: &str| ServiceConfig::parse(text.as_bytes()).unwrap().log_level;
        assert_eq!(parse("{}"), 1);
        assert_eq!(parse(r#"{"logLevel":3}"#), 3);
        assert_eq!(parse(r#"{"logLevel":3,"logConfig":{"logLevel":0}}"#), 3);
        assert_eq!(
            parse(r#"{"logLevel":3,"logConfig":{"logLevel":0,"logPath":"/l"}}"#),
            0
        );
    }

    #[test]
    fn a_level_above_error_logs_errors() {
        assert_eq!(
            ServiceConfig::parse(br#"{"logLevel":9}"#)
                .unwrap()
                .log_level,
            3
        );
    }
}
