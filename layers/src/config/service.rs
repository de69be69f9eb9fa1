//! `overlaybd.json`: settings of a host, shared by its images.
//!
//! Every key of the C++ daemon is accepted; those that only the TCMU daemon or turboOCI need are
//! read by the parts that need them.
//!
//! Source: format reference 5.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::json::{self, UnknownKeys};
use super::remote::{
    CacheConfig, CacheKind, CertConfig, CredentialConfig, CredentialSource, DownloadConfig,
    ExporterConfig, LogConfig, P2pConfig, PrefetchConfig, SnapshotConfig, cache_kind,
};
use crate::error::{ErrorKind, Result};

const OP: &str = "read service config";
const DEFAULT_PATH: &str = "/etc/overlaybd/overlaybd.json";
const AUDIT_PATH: &str = "/var/log/overlaybd-audit.log";
const HOST_LOG_PATH: &str = "/var/log/overlaybd.log";

/// Reads of a running disk wait this long for an origin that is gone, as in the C++ daemon.
const READ_RETRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// Checked settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Log level and file.
    pub log: LogConfig,
    /// The cache directory.
    pub cache: CacheConfig,
    /// Who knows user names and passwords of registries.
    pub credentials: CredentialSource,
    /// Client certificate and private CA for registries.
    pub cert: CertConfig,
    /// Background download, unless an image says otherwise.
    pub download: DownloadConfig,
    /// Prefix for data requests.
    pub p2p: P2pConfig,
    /// Prometheus.
    pub exporter: ExporterConfig,
    /// Live snapshots, of a daemon that has disks for the host.
    pub snapshots: SnapshotConfig,
    /// Trace replay.
    pub prefetch: PrefetchConfig,
    /// Where audit lines go; `None` = nowhere.
    pub audit_path: Option<PathBuf>,
    /// `User-Agent` of all requests.
    pub user_agent: String,
    /// How long reads of a running disk wait for an origin that is gone. Key of ours:
    /// `readRetrySeconds`, also in image configs.
    pub read_retry: Duration,
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Raw::default().check()
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    log_config: Option<LogConfig>,
    log_level: Option<u8>,
    log_path: Option<PathBuf>,
    cache_config: CacheConfig,
    #[serde(deserialize_with = "cache_kind")]
    cache_type: Option<CacheKind>,
    registry_cache_dir: Option<PathBuf>,
    #[serde(rename = "registryCacheSizeGB")]
    registry_cache_size_gb: Option<u64>,
    credential_config: CredentialConfig,
    credential_file_path: Option<PathBuf>,
    cert_config: CertConfig,
    download: DownloadConfig,
    p2p_config: P2pConfig,
    exporter_config: ExporterConfig,
    service_config: SnapshotConfig,
    prefetch_config: PrefetchConfig,
    enable_audit: Option<bool>,
    audit_path: Option<PathBuf>,
    user_agent: Option<String>,
    read_retry_seconds: Option<u64>,
    #[serde(flatten)]
    others: UnknownKeys,
}

/// Keys of the C++ daemon that this version has no use for yet, or that ask for what it always does.
const UNUSED: [&str; 4] = [
    "enableThread",
    "gzipCacheConfig",
    "ioEngine",
    "registryFsVersion",
];

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
        Ok(Self::read(path)?.check())
    }

    fn read(path: &Path) -> Result<Raw> {
        let raw: Raw = json::read(OP, path)?;
        let name = path.display().to_string();
        let unknown = raw
            .others
            .iter()
            .filter(|(key, _)| !UNUSED.contains(&key.as_str()));
        json::log_unknown(
            &name,
            &unknown.map(|(key, value)| (key.clone(), *value)).collect(),
        );
        Ok(raw)
    }

    /// As [`ServiceConfig::load_or_default`], for the one daemon of a host, which runs as root: unless a
    /// key says otherwise it logs to a file and audits, as the C++ daemon does.
    ///
    /// # Errors
    /// As [`ServiceConfig::load`].
    pub fn load_for_host(path: Option<&Path>) -> Result<Self> {
        let standard = Path::new(DEFAULT_PATH);
        let raw = match Self::read(path.unwrap_or(standard)) {
            Err(error) if path.is_none() && error.kind() == ErrorKind::NotFound => Raw::default(),
            other => other?,
        };
        Ok(raw.of_host().check())
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
    fn of_host(mut self) -> Self {
        self.log_path.get_or_insert_with(|| HOST_LOG_PATH.into());
        self.enable_audit.get_or_insert(true);
        self
    }

    fn check(self) -> ServiceConfig {
        // The new blocks count only when they name a file, a type, a mode: as in the C++ daemon.
        let new_log = self
            .log_config
            .filter(|log| !log.path.as_os_str().is_empty());
        let log = new_log.unwrap_or_else(|| LogConfig {
            level: self.log_level.unwrap_or(1),
            path: self.log_path.unwrap_or_default(),
            ..LogConfig::default()
        });
        let mut cache = self.cache_config;
        if cache.kind.is_none() {
            cache.kind = self.cache_type;
            cache.dir = self.registry_cache_dir.unwrap_or(cache.dir);
            cache.size_gib = self.registry_cache_size_gb.unwrap_or(cache.size_gib);
        }
        // Unlike the C++ daemon, nothing is audited that no key asks for: it would be to a place that
        // only root can write.
        let wanted = self.enable_audit.unwrap_or(self.audit_path.is_some());
        let audit_path = self
            .audit_path
            .or_else(|| Some(PathBuf::from(AUDIT_PATH)))
            .filter(|path| wanted && !path.as_os_str().is_empty());
        ServiceConfig {
            log: log.check(),
            cache,
            credentials: self.credential_config.check(self.credential_file_path),
            cert: self.cert_config,
            download: self.download,
            p2p: self.p2p_config,
            exporter: self.exporter_config,
            snapshots: self.service_config,
            prefetch: self.prefetch_config,
            audit_path,
            user_agent: self
                .user_agent
                .unwrap_or_else(|| concat!("obd/", env!("CARGO_PKG_VERSION")).to_owned()),
            read_retry: self
                .read_retry_seconds
                .map_or(READ_RETRY, Duration::from_secs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_level_comes_from_the_block_that_names_a_file() {
        let parse = |text: &str| ServiceConfig::parse(text.as_bytes()).unwrap().log.level;
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
                .log
                .level,
            3
        );
    }

    #[test]
    fn the_old_cache_keys_count_only_without_a_new_cache_type() {
        let parse = |text: &str| ServiceConfig::parse(text.as_bytes()).unwrap().cache;
        let old = parse(r#"{"registryCacheDir":"/c","registryCacheSizeGB":9}"#);
        assert_eq!((old.dir.to_str().unwrap(), old.size_gib), ("/c", 9));
        let typeless = parse(r#"{"cacheConfig":{"cacheDir":"/n","cacheSizeGB":7}}"#);
        assert_eq!(
            (typeless.dir.to_str().unwrap(), typeless.size_gib),
            ("/n", 7)
        );
        let new =
            parse(r#"{"registryCacheDir":"/c","cacheConfig":{"cacheType":"ocf","cacheDir":"/n"}}"#);
        assert_eq!(new.dir.to_str().unwrap(), "/n");
        assert_eq!(new.kind, Some(CacheKind::Ocf));
        let empty =
            parse(r#"{"registryCacheDir":"/c","cacheType":"","cacheConfig":{"cacheType":""}}"#);
        assert_eq!((empty.dir.to_str().unwrap(), empty.kind), ("/c", None));
        let error = ServiceConfig::parse(br#"{"cacheConfig":{"cacheType":"x"}}"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }

    #[test]
    fn audit_is_on_when_a_key_asks_for_it() {
        let path = |text: &str| {
            let path = ServiceConfig::parse(text.as_bytes()).unwrap().audit_path;
            path.map(|path| path.to_str().unwrap().to_owned())
        };
        assert_eq!(path("{}"), None);
        assert_eq!(path(r#"{"enableAudit":true}"#).as_deref(), Some(AUDIT_PATH));
        assert_eq!(path(r#"{"auditPath":"/a"}"#).as_deref(), Some("/a"));
        assert_eq!(path(r#"{"enableAudit":false,"auditPath":"/a"}"#), None);
        assert_eq!(path(r#"{"enableAudit":true,"auditPath":""}"#), None);
    }

    #[test]
    fn the_daemon_of_a_host_logs_to_a_file_and_audits_unless_told_otherwise() {
        let load = |text: &str| {
            let raw: Raw = json::parse(OP, text.as_bytes()).unwrap();
            raw.of_host().check()
        };
        let standard = load("{}");
        assert_eq!(standard.log.path, Path::new(HOST_LOG_PATH));
        assert_eq!(standard.audit_path.as_deref(), Some(Path::new(AUDIT_PATH)));
        let other = load(r#"{"logPath":"","enableAudit":false}"#);
        assert_eq!(other.log.path, Path::new(""));
        assert_eq!(other.audit_path, None);
        let new = load(r#"{"logConfig":{"logPath":"/l"},"auditPath":"/a"}"#);
        assert_eq!(new.log.path, Path::new("/l"));
        assert_eq!(new.audit_path.as_deref(), Some(Path::new("/a")));
    }

    #[test]
    fn what_the_snapshotter_writes_is_read() {
        let text =
            br#"{"registryFsVersion":"v2","logPath":"","logLevel":1,"cacheConfig":{"cacheType":
            "file","cacheDir":"/w/cache","cacheSizeGB":4},"gzipCacheConfig":{"enable":false},
            "credentialConfig":{"mode":"file","path":""},"ioEngine":0,"download":{"enable":false},
            "enableAudit":false}"#;
        let config = ServiceConfig::parse(text).unwrap();
        assert_eq!(config.credentials, CredentialSource::None);
        assert_eq!(config.audit_path, None);
        assert!(!config.download.enable);
    }
}
