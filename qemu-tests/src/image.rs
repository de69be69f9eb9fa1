//! Overlaybd images for tests: a `config.v1.json` over layers that exist or are imported.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::lab::Lab;
use crate::programs::Programs;

/// An image that a daemon can open.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its `config.v1.json`.
    pub config: PathBuf,
    /// Its layer files, bottom first.
    pub layers: Vec<PathBuf>,
}

impl Lab {
    /// An image of `layers`, bottom first. They are copied to where the daemon may read.
    ///
    /// # Errors
    /// When a layer cannot be copied.
    pub fn image_of_layers(&self, name: &str, layers: &[PathBuf]) -> Result<Image> {
        let mut lowers = Vec::new();
        for (index, layer) in layers.iter().enumerate() {
            let copy = self.dir().join(format!("{name}.layer{index}.obd"));
            fs::copy(layer, &copy).with_context(|| format!("copy {}", layer.display()))?;
            lowers.push(copy);
        }
        self.write_config(name, lowers)
    }

    /// An image whose one layer is the raw disk `raw`, imported with `obd import`.
    ///
    /// # Errors
    /// When the import fails.
    pub fn import_image(&self, name: &str, raw: &Path) -> Result<Image> {
        let layer = self.dir().join(format!("{name}.obd"));
        let output = Command::new(&Programs::get()?.obd)
            .arg("import")
            .args([raw, &layer])
            .output()
            .context("run obd import")?;
        let message = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "obd import: {}: {message}",
            output.status
        );
        self.write_config(name, vec![layer])
    }

    fn write_config(&self, name: &str, layers: Vec<PathBuf>) -> Result<Image> {
        let lowers: Vec<_> = layers.iter().map(|file| json!({ "file": file })).collect();
        let config = self.dir().join(format!("{name}.config.v1.json"));
        let body = json!({ "repoBlobUrl": "", "lowers": lowers, "resultFile": "" });
        fs::write(&config, body.to_string())?;
        Ok(Image { config, layers })
    }
}
