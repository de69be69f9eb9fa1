//! Overlaybd images for tests: a `config.v1.json` over layers that exist, are imported or new.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::guest_assets::GuestAssets;
use crate::lab::Lab;
use crate::process::{UNPRIVILEGED_ID, is_root};
use crate::programs::Programs;

/// Size of the root disks that guests write to.
const ROOMY_ROOT_BYTES: u64 = 1 << 30;

/// An image that a daemon can open.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its `config.v1.json`.
    pub config: PathBuf,
    /// Its layer files, bottom first.
    pub layers: Vec<PathBuf>,
    /// Its writable layer.
    pub upper: Option<Upper>,
}

/// The files of a writable layer.
#[derive(Debug, Clone)]
pub struct Upper {
    /// Data file.
    pub data: PathBuf,
    /// Index log.
    pub index: PathBuf,
}

impl Upper {
    /// Space that the data file takes on the host, in bytes.
    ///
    /// # Errors
    /// When it is not there.
    pub fn data_bytes_on_host(&self) -> Result<u64> {
        Ok(fs::metadata(&self.data)?.blocks() * 512)
    }
}

/// How a writable layer keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpperKind {
    /// A data file in the order of the writes, and an index log.
    AppendOnly,
    /// One sparse file like the disk.
    Sparse,
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
        self.write_config(name, lowers, None)
    }

    /// An image whose one layer is the raw disk `raw`, imported with `obd import`.
    ///
    /// # Errors
    /// When the import fails.
    pub fn import_image(&self, name: &str, raw: &Path) -> Result<Image> {
        let layer = self.dir().join(format!("{name}.obd"));
        run(Command::new(&Programs::get()?.obd)
            .arg("import")
            .args([raw, &layer]))?;
        self.write_config(name, vec![layer], None)
    }

    /// The Debian root disk with room to write: 1 GiB, with a journal.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn roomy_root_image(&self, name: &str) -> Result<Image> {
        let raw = self.dir().join(format!("{name}.raw"));
        run(Command::new("cp")
            .arg("--sparse=always")
            .args([&GuestAssets::get()?.root_disk, &raw]))?;
        File::options()
            .write(true)
            .open(&raw)?
            .set_len(ROOMY_ROOT_BYTES)?;
        run(Command::new("/sbin/resize2fs").arg(&raw))?;
        run(Command::new("/sbin/tune2fs")
            .args(["-J", "size=16"])
            .arg(&raw))?;
        let image = self.import_image(name, &raw)?;
        fs::remove_file(&raw)?;
        Ok(image)
    }

    /// `below` with a new writable layer on top, as large as `below` is.
    ///
    /// # Errors
    /// When the layer cannot be made.
    pub fn writable_image(&self, name: &str, below: &Image, kind: UpperKind) -> Result<Image> {
        let upper = self.new_upper(self.dir(), name, kind, 0)?;
        self.write_config(name, below.layers.clone(), Some(upper))
    }

    /// An empty writable disk of `size_gib` GiB, its files in `dir`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn empty_disk(
        &self,
        dir: &Path,
        name: &str,
        kind: UpperKind,
        size_gib: u64,
    ) -> Result<Image> {
        let upper = self.new_upper(dir, name, kind, size_gib)?;
        self.write_config(name, Vec::new(), Some(upper))
    }

    fn new_upper(&self, dir: &Path, name: &str, kind: UpperKind, size_gib: u64) -> Result<Upper> {
        let upper = Upper {
            data: dir.join(format!("{name}.data")),
            index: dir.join(format!("{name}.index")),
        };
        let mut command = Command::new(&Programs::get()?.create);
        if kind == UpperKind::Sparse {
            command.arg("-s");
        }
        run(command
            .args([&upper.data, &upper.index])
            .arg(size_gib.to_string()))?;
        if is_root() {
            for file in [&upper.data, &upper.index] {
                chown(file, Some(UNPRIVILEGED_ID), Some(UNPRIVILEGED_ID))?;
            }
        }
        Ok(upper)
    }

    /// Writes the whole disk of an image that no daemon serves as a raw file.
    ///
    /// # Errors
    /// When the export fails.
    pub fn export(&self, image: &Image, name: &str) -> Result<PathBuf> {
        let raw = self.dir().join(format!("{name}.exported"));
        run(Command::new(&Programs::get()?.obd)
            .arg("export")
            .args([&image.config, &raw]))?;
        Ok(raw)
    }

    fn write_config(
        &self,
        name: &str,
        layers: Vec<PathBuf>,
        upper: Option<Upper>,
    ) -> Result<Image> {
        let lowers: Vec<_> = layers.iter().map(|file| json!({ "file": file })).collect();
        let config = self.dir().join(format!("{name}.config.v1.json"));
        let mut body = json!({ "repoBlobUrl": "", "lowers": lowers, "resultFile": "" });
        if let (Some(body), Some(upper)) = (body.as_object_mut(), &upper) {
            let files = json!({ "data": upper.data, "index": upper.index });
            body.insert("upper".to_owned(), files);
        }
        fs::write(&config, body.to_string())?;
        Ok(Image {
            config,
            layers,
            upper,
        })
    }
}

/// Looks for damage in the ext4 file system of a raw disk, which must need no repair.
///
/// # Errors
/// What e2fsck found.
pub fn check_ext4(raw: &Path) -> Result<()> {
    run(Command::new("/sbin/e2fsck").arg("-fn").arg(raw))
}

/// Runs a program of the host to its end; what it says is for the error only.
fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
