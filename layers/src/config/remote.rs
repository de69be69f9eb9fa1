//! Parts of `overlaybd.json` about registries, caches and what is watched.
//!
//! Source: format reference 5. Keys that the C++ daemon does not have are marked as ours.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// `logConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LogConfig {
    /// 0 debug, 1 info, 2 warn, 3 error.
    #[serde(rename = "logLevel")]
    pub level: u8,
    /// Log file; empty = standard error.
    #[serde(rename = "logPath")]
    pub path: PathBuf,
    /// A file that reaches this size is rotated, in MiB; 1 at least.
    #[serde(rename = "logSizeMB")]
    pub size_mib: u64,
    /// Files kept, the current one included; 1 to 30.
    #[serde(rename = "logRotateNum")]
    pub files: u32,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: 1,
            path: PathBuf::new(),
            size_mib: 10,
            files: 3,
        }
    }
}

impl LogConfig {
    /// The level, for the log crate.
    #[must_use]
    pub fn filter(&self) -> log::LevelFilter {
        match self.level {
            0 => log::LevelFilter::Debug,
            1 => log::LevelFilter::Info,
            2 => log::LevelFilter::Warn,
            _ => log::LevelFilter::Error,
        }
    }

    pub(super) fn check(mut self) -> Self {
        self.level = self.level.min(3);
        self.size_mib = self.size_mib.max(1);
        self.files = self.files.clamp(1, 30);
        self
    }
}

/// `cacheType`; an empty one is none.
pub(super) fn cache_kind<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<CacheKind>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Empty(Empty),
        Kind(CacheKind),
    }
    #[derive(Deserialize)]
    enum Empty {
        #[serde(rename = "")]
        Empty,
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Empty(Empty::Empty) => None,
        Written::Kind(kind) => Some(kind),
    })
}

/// `cacheType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheKind {
    /// One sparse file a blob.
    File,
    /// Open CAS in the C++ daemon; the same as `file` here.
    Ocf,
    /// In the layer's own directory.
    Download,
}

/// `cacheConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct CacheConfig {
    /// What kind; `None` = `file`.
    #[serde(rename = "cacheType", deserialize_with = "cache_kind")]
    pub kind: Option<CacheKind>,
    /// The directory.
    #[serde(rename = "cacheDir")]
    pub dir: PathBuf,
    /// Most bytes kept, in GiB.
    #[serde(rename = "cacheSizeGB")]
    pub size_gib: u64,
    /// Ours: most bytes kept, in MiB, instead of `cacheSizeGB`; for small caches.
    #[serde(rename = "cacheSizeMB")]
    pub size_mib: Option<u64>,
    /// Misses are rounded out to this many bytes; `None` = as suits the reads.
    #[serde(rename = "refillSize")]
    pub refill_bytes: Option<u64>,
    /// Cache line of `ocf`; accepted, without effect.
    #[serde(rename = "blockSize")]
    pub block_bytes: u64,
    /// Ours: bytes of the file system that are left free, in MiB.
    #[serde(rename = "freeSpaceFloorMB")]
    pub free_floor_mib: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            kind: None,
            dir: PathBuf::from("/opt/overlaybd/registry_cache"),
            size_gib: 4,
            size_mib: None,
            refill_bytes: None,
            block_bytes: 65536,
            free_floor_mib: 1024,
        }
    }
}

impl CacheConfig {
    /// Most bytes kept.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        match self.size_mib {
            Some(mib) => mib.saturating_mul(1 << 20),
            None => self.size_gib.saturating_mul(1 << 30),
        }
    }
}

/// `credentialConfig` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CredentialConfig {
    mode: String,
    path: String,
    timeout: Option<u64>,
    client_cert_path: PathBuf,
    client_key_path: PathBuf,
    server_ca_path: PathBuf,
}

/// Who is asked for user names and passwords.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// Nobody: all access is anonymous.
    None,
    /// A file of `auths`.
    File(PathBuf),
    /// A server: `http` or `https`.
    Server(CredentialServer),
    /// A server on a Unix socket.
    Socket {
        /// Path of the socket.
        path: PathBuf,
        /// Longest wait for it.
        timeout: Duration,
    },
}

/// A credential server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialServer {
    /// Where it listens; the scheme may be missing.
    pub url: String,
    /// Speak TLS, with the files below.
    pub https: bool,
    /// Longest wait for it.
    pub timeout: Duration,
    /// Client certificate, PEM; empty = none.
    pub client_cert: PathBuf,
    /// Its key, PEM; empty = none.
    pub client_key: PathBuf,
    /// The only CA that is trusted, PEM; empty = the host's.
    pub server_ca: PathBuf,
}

/// Where the C++ daemon looks when no mode is set.
pub(crate) const LEGACY_CREDENTIALS: &str = "/opt/overlaybd/cred.json";

impl CredentialConfig {
    pub(super) fn check(self, legacy: Option<PathBuf>) -> CredentialSource {
        let timeout = Duration::from_secs(self.timeout.unwrap_or(1));
        let file = |path: PathBuf| match path.as_os_str().is_empty() {
            true => CredentialSource::None,
            false => CredentialSource::File(path),
        };
        match self.mode.as_str() {
            "" => file(legacy.unwrap_or_else(|| PathBuf::from(LEGACY_CREDENTIALS))),
            _ if self.path.is_empty() => CredentialSource::None,
            "file" => file(PathBuf::from(self.path)),
            "uds" => CredentialSource::Socket {
                path: PathBuf::from(self.path),
                timeout,
            },
            mode @ ("http" | "https") => CredentialSource::Server(CredentialServer {
                url: self.path,
                https: mode == "https",
                timeout,
                client_cert: self.client_cert_path,
                client_key: self.client_key_path,
                server_ca: self.server_ca_path,
            }),
            other => {
                log::warn!("credentialConfig.mode {other:?} is unknown: no credentials are used");
                CredentialSource::None
            }
        }
    }
}

/// `certConfig`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertConfig {
    /// Client certificate, PEM; used only together with the key.
    pub cert_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
    /// Ours: CA certificates, PEM, trusted besides the host's.
    pub ca_file: PathBuf,
    /// Ours: trust every certificate, as the C++ daemon does.
    pub insecure_skip_verify: bool,
}

/// `download`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DownloadConfig {
    /// Download layers in the background?
    pub enable: bool,
    /// Seconds after an image was opened.
    pub delay: u64,
    /// Up to so many seconds more; 0 = 30.
    pub delay_extra: u64,
    /// MiB a second; 0 or less = unlimited.
    #[serde(rename = "maxMBps")]
    pub max_mib_per_second: i64,
    /// Attempts for a layer.
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
            max_mib_per_second: 100,
            try_cnt: 5,
            block_size: 262_144,
        }
    }
}

/// `p2pConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct P2pConfig {
    /// Use it?
    pub enable: bool,
    /// Prefix of data requests.
    pub address: String,
}

impl Default for P2pConfig {
    fn default() -> Self {
        Self {
            enable: false,
            address: "http://localhost:9731/accelerator".to_owned(),
        }
    }
}

/// `exporterConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExporterConfig {
    /// Serve metrics?
    pub enable: bool,
    /// Path of the metrics.
    pub uri_prefix: String,
    /// TCP port; 0 = one that is free.
    pub port: u16,
    /// Ours: IP address to listen on, or `unix:PATH`, in which `%p` is the process's number.
    pub address: String,
}

impl Default for ExporterConfig {
    fn default() -> Self {
        Self {
            enable: false,
            uri_prefix: "/metrics".to_owned(),
            port: 9863,
            address: "0.0.0.0".to_owned(),
        }
    }
}

/// `serviceConfig`: live snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SnapshotConfig {
    /// Take them?
    pub enable: bool,
    /// `http://IP:PORT`; ours: `unix:PATH`.
    pub address: String,
    /// Ours: a file with the token that requests have to bring; empty = none.
    pub token_file: PathBuf,
    /// Ours: an address that others can reach is meant; needs a token.
    pub allow_remote: bool,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            enable: false,
            address: "http://127.0.0.1:9862".to_owned(),
            token_file: PathBuf::new(),
            allow_remote: false,
        }
    }
}

/// `prefetchConfig`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PrefetchConfig {
    /// Requests of a replay at once; 1 at least.
    pub concurrency: usize,
    /// Ours: record what the first boots of an image read, and replay it at later ones.
    pub auto: bool,
}

impl Default for PrefetchConfig {
    fn default() -> Self {
        Self {
            concurrency: 16,
            auto: false,
        }
    }
}
