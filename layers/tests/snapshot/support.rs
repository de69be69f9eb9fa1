//! A disk with a config, and what its next snapshot needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use layers::config::ImageConfig;
use layers::lsmt::upper::{CreateOptions, UpperKind, create, seal};
use layers::lsmt::{LayerBuilder, LayerOptions, Uuid};
use layers::{Access, Image, Service};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Both kinds.
pub(crate) const KINDS: [UpperKind; 2] = [UpperKind::AppendOnly, UpperKind::Sparse];

/// No step takes longer, on however busy a machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) const DISK_BYTES: u64 = 1 << 20;

/// A directory beside the build: on a file system with holes.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A directory in memory where there is one: quick, and another file system.
pub(crate) fn quick_scratch() -> TempDir {
    match Path::new("/dev/shm").is_dir() {
        true => tempfile::tempdir_in("/dev/shm").unwrap(),
        false => scratch(),
    }
}

/// A disk's files, all in one directory; they last longer than this value.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(crate) dir: PathBuf,
    pub(crate) kind: UpperKind,
    pub(crate) bytes: u64,
}

impl Disk {
    /// A disk of one lower, which has the byte 7 in its first 64 KiB, and an upper called `0`.
    pub(crate) fn create(dir: &Path, kind: UpperKind, bytes: u64) -> Self {
        let disk = Self {
            dir: dir.to_owned(),
            kind,
            bytes,
        };
        let options = LayerOptions {
            virtual_size_bytes: bytes,
            ..LayerOptions::default()
        };
        let mut base = LayerBuilder::new(Vec::new(), options).unwrap();
        base.append(0, &vec![7; 1 << 16]).unwrap();
        fs::write(disk.base(), base.finish().unwrap().0).unwrap();
        disk.create_upper("0", bytes);
        let config = disk.json(&[disk.base()], Some("0"));
        write_json(&disk.config(), &config);
        disk
    }

    pub(crate) fn base(&self) -> PathBuf {
        self.dir.join("base")
    }

    pub(crate) fn data(&self, upper: &str) -> PathBuf {
        self.dir.join(format!("{upper}.data"))
    }

    pub(crate) fn index(&self, upper: &str) -> PathBuf {
        self.dir.join(format!("{upper}.index"))
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("config.v1.json")
    }

    pub(crate) fn new_config(&self) -> PathBuf {
        self.dir.join("new.json")
    }

    pub(crate) fn intent(&self) -> PathBuf {
        self.dir.join("config.v1.json.snapshot-intent")
    }

    pub(crate) fn create_upper(&self, upper: &str, virtual_size_bytes: u64) {
        let options = CreateOptions {
            kind: self.kind,
            virtual_size_bytes,
            parent_uuid: Uuid::NIL,
        };
        create(&self.data(upper), &self.index(upper), options).unwrap();
    }

    /// Makes a data file of this name that is sealed.
    pub(crate) fn create_upper_sealed(&self, upper: &str) {
        self.create_upper("sealed", self.bytes);
        seal(&self.data("sealed"), &self.index("sealed")).unwrap();
        fs::rename(self.data("sealed"), self.data(upper)).unwrap();
    }

    pub(crate) fn json(&self, lowers: &[PathBuf], upper: Option<&str>) -> Value {
        let lowers: Vec<_> = lowers.iter().map(|file| json!({ "file": file })).collect();
        let mut config = json!({ "lowers": lowers, "resultFile": self.dir.join("result") });
        if let Some(upper) = upper {
            config["upper"] = json!({ "data": self.data(upper), "index": self.index(upper) });
        }
        config
    }

    /// The files below the upper, and the upper's data file, as the config says it now.
    pub(crate) fn layers(&self) -> Vec<PathBuf> {
        let config = ImageConfig::load(&self.config()).unwrap();
        let lowers = config.lowers.iter().map(|lower| lower.file.clone());
        lowers.chain([config.upper.data.clone()]).collect()
    }

    /// Makes the upper `name` and the config with which the disk goes on; returns the layers of the
    /// snapshot.
    pub(crate) fn prepare(&self, name: &str) -> Vec<PathBuf> {
        self.create_upper(name, self.bytes);
        let layers = self.layers();
        write_json(&self.new_config(), &self.json(&layers, Some(name)));
        layers
    }

    pub(crate) fn open(&self) -> layers::Result<Image> {
        Image::open(&self.config(), &Service::default(), Access::Write)
    }

    pub(crate) fn snapshot(&self, image: &Image) -> layers::Result<()> {
        image.snapshot(&self.config(), &self.new_config())
    }

    /// Opens layers that are only read.
    pub(crate) fn open_layers(&self, layers: &[PathBuf]) -> Image {
        let config = serde_json::from_value(self.json(layers, None)).unwrap();
        Image::open_layers(&config, &Service::default(), Access::Read).unwrap()
    }
}

pub(crate) fn write_json(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}

/// The first byte of a block of 4 KiB.
pub(crate) fn byte_at(image: &Image, block: u64) -> u8 {
    let mut sector = [0; 512];
    image.read_exact_at(block * 4096, &mut sector).unwrap();
    sector[0]
}

pub(crate) fn write_block(image: &Image, block: u64, byte: u8) {
    image.write_at(block * 4096, &[byte; 4096]).unwrap();
}
