//! Config files: what the operator and containerd's snapshotter wrote, as checked values.
//!
//! Source: format reference 4.2 (image config), 5 (service config).

mod image;
mod json;
mod remote;
mod service;

pub use image::{ImageConfig, LowerConfig, UpperConfig};
pub(crate) use remote::LEGACY_CREDENTIALS;
pub use remote::{
    CacheConfig, CacheKind, CertConfig, CredentialServer, CredentialSource, DownloadConfig,
    ExporterConfig, LogConfig, P2pConfig, PrefetchConfig, SnapshotConfig,
};
pub use service::ServiceConfig;
