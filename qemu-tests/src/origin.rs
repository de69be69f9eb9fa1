//! Images that are not on this host: a registry behind a proxy that counts, and hosts with a cache.
//!
//! test -> **origin** -> `test_servers`

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use test_servers::{DockerRegistry, Proxy};

use crate::image::Image;
use crate::lab::Lab;
use crate::process::{UNPRIVILEGED_ID, is_root};

const REPO: &str = "obd/guest";

/// Where layers come from.
#[derive(Debug)]
pub struct Origin {
    /// Debian's registry.
    pub registry: DockerRegistry,
    /// What daemons talk to.
    pub proxy: Proxy,
}

/// A layer in it.
#[derive(Debug, Clone)]
pub struct Blob {
    /// `sha256:...`
    pub digest: String,
    /// Its size.
    pub bytes: u64,
}

impl Origin {
    /// Starts an empty one.
    ///
    /// # Errors
    /// When Debian's registry does not start.
    pub fn start() -> Result<Self> {
        let registry = DockerRegistry::plain()?;
        let proxy = Proxy::start(registry.address())?;
        Ok(Self { registry, proxy })
    }

    /// Takes the layers of `image`, whose files are removed.
    ///
    /// # Errors
    /// When a layer cannot be pushed.
    pub fn take(&self, image: &Image) -> Result<Vec<Blob>> {
        let take = |layer: &PathBuf| {
            let bytes = fs::metadata(layer)?.len();
            let digest = self.registry.push_file(REPO, layer)?;
            fs::remove_file(layer)?;
            Ok(Blob { digest, bytes })
        };
        image.layers.iter().map(take).collect()
    }

    /// The prefix of the blobs.
    #[must_use]
    pub fn repo_blob_url(&self) -> String {
        self.proxy.repo_blob_url(REPO)
    }
}

impl Lab {
    /// An image of `blobs`, bottom first, none of which is on this host. `dir` is where background
    /// downloads put them; `more` are keys of the image config besides.
    ///
    /// # Errors
    /// When the config cannot be written.
    pub fn remote_image(
        &self,
        origin: &Origin,
        name: &str,
        blobs: &[Blob],
        dir: Option<&Path>,
        more: Value,
    ) -> Result<Image> {
        let mut lowers = Vec::new();
        for (number, blob) in blobs.iter().enumerate() {
            let mut lower = json!({ "digest": blob.digest, "size": blob.bytes });
            if let (Some(dir), Some(keys)) = (dir, lower.as_object_mut()) {
                let dir = dir.join(number.to_string());
                fs::create_dir_all(&dir)?;
                give_to_daemons(&dir)?;
                keys.insert("dir".to_owned(), json!(dir));
            }
            lowers.push(lower);
        }
        let mut body = more;
        let keys = body.as_object_mut().context("an object of keys")?;
        keys.insert("repoBlobUrl".to_owned(), json!(origin.repo_blob_url()));
        keys.insert("lowers".to_owned(), json!(lowers));
        keys.insert("resultFile".to_owned(), json!(""));
        let config = self.dir().join(format!("{name}.config.v1.json"));
        fs::write(&config, body.to_string())?;
        Ok(Image {
            config,
            layers: Vec::new(),
            upper: None,
        })
    }

    /// The settings of a host with a cache directory `name`, which keeps what an earlier daemon with the
    /// same settings has fetched. `more` are keys of `overlaybd.json` besides.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn host(&self, name: &str, more: Value) -> Result<PathBuf> {
        let cache = self.dir().join(format!("{name}.cache"));
        fs::create_dir_all(&cache)?;
        give_to_daemons(&cache)?;
        let mut settings = more;
        let keys = settings.as_object_mut().context("an object of settings")?;
        let cache_config = keys.entry("cacheConfig").or_insert_with(|| json!({}));
        let cache_keys = cache_config.as_object_mut().context("cacheConfig")?;
        cache_keys.insert("cacheType".to_owned(), json!("file"));
        cache_keys.insert("cacheDir".to_owned(), json!(cache));
        cache_keys.insert("freeSpaceFloorMB".to_owned(), json!(0));
        let nobody = json!({ "mode": "file", "path": "" });
        keys.insert("credentialConfig".to_owned(), nobody);
        keys.insert("enableAudit".to_owned(), json!(false));
        let path = self.dir().join(format!("{name}.overlaybd.json"));
        fs::write(&path, settings.to_string())?;
        Ok(path)
    }
}

/// Lets daemons write to a file or directory.
///
/// # Errors
/// When its owner cannot be changed.
pub fn give_to_daemons(path: &Path) -> Result<()> {
    match is_root() {
        true => Ok(chown(path, Some(UNPRIVILEGED_ID), Some(UNPRIVILEGED_ID))?),
        false => Ok(()),
    }
}
