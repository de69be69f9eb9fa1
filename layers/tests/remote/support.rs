//! What these tests share: layers made on the spot, the host that reads them, whole-disk compares.

use std::io::{Cursor, Write};
use std::path::PathBuf;

use layers::config::ServiceConfig;
use layers::lsmt::{LayerBuilder, LayerOptions};
use layers::tar::TarWriter;
use layers::zfile::{Algorithm, BuildOptions, ZFileBuilder};
use layers::{Access, Image, Service};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_servers::DockerRegistry;

pub(crate) const REPO: &str = "team/image";

const SECTOR: usize = 512;

/// An image as it is pushed, and the disk that a guest must see.
pub(crate) struct Layered {
    pub(crate) disk: Vec<u8>,
    /// Bottom first.
    pub(crate) blobs: Vec<Vec<u8>>,
}

impl Layered {
    /// Compressed layers, some of them in a tar; each writes over some of what is below it.
    pub(crate) fn new(seed: u64, disk_bytes: usize, layers: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut disk = vec![0; disk_bytes];
        let blobs = (0..layers)
            .map(|number| {
                let runs = random_runs(&mut random, disk_bytes, number);
                for (sector, data) in &runs {
                    disk[sector * SECTOR..][..data.len()].copy_from_slice(data);
                }
                let algorithm = [Algorithm::Lz4, Algorithm::Zstd][random.usize(..2)];
                compressed_layer(disk_bytes, &runs, algorithm, random.bool())
            })
            .collect();
        Self { disk, blobs }
    }

    /// The digests and sizes of its blobs, now in `registry`.
    pub(crate) fn push(&self, registry: &DockerRegistry) -> Vec<(String, u64)> {
        let push = |blob: &Vec<u8>| {
            let digest = registry.push_blob(REPO, blob).unwrap();
            (digest, blob.len() as u64)
        };
        self.blobs.iter().map(push).collect()
    }

    pub(crate) fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.len() as u64).sum()
    }
}

/// Sectors and data, in order and apart from each other. The bottom layer has most of the disk.
fn random_runs(
    random: &mut fastrand::Rng,
    disk_bytes: usize,
    number: usize,
) -> Vec<(usize, Vec<u8>)> {
    let mut runs = Vec::new();
    let mut sector = 0;
    let gap = if number == 0 {
        8
    } else {
        disk_bytes / SECTOR / 4
    };
    loop {
        sector += random.usize(1..gap);
        let sectors = random.usize(1..128);
        if (sector + sectors) * SECTOR > disk_bytes {
            return runs;
        }
        runs.push((sector, half_random(random, sectors * SECTOR)));
        sector += sectors;
    }
}

/// Bytes that compress to about half.
fn half_random(random: &mut fastrand::Rng, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for piece in bytes.chunks_mut(16) {
        let random_part = piece.len().min(8);
        random.fill(&mut piece[..random_part]);
    }
    bytes
}

fn compressed_layer(
    disk_bytes: usize,
    runs: &[(usize, Vec<u8>)],
    algorithm: Algorithm,
    tar: bool,
) -> Vec<u8> {
    let zfile = BuildOptions {
        algorithm,
        ..BuildOptions::default()
    };
    let layer = layer(disk_bytes, runs);
    let sink = Cursor::new(Vec::new());
    match tar {
        true => {
            let tar = compress(TarWriter::new(sink).unwrap(), zfile, &layer);
            tar.finish(0o644).unwrap().into_inner()
        }
        false => compress(sink, zfile, &layer).into_inner(),
    }
}

fn compress<W: Write + std::io::Seek>(sink: W, options: BuildOptions, layer: &[u8]) -> W {
    let mut builder = ZFileBuilder::new(sink, options).unwrap();
    builder.write_all(layer).unwrap();
    builder.finish().unwrap().sink
}

fn layer(disk_bytes: usize, runs: &[(usize, Vec<u8>)]) -> Vec<u8> {
    let options = LayerOptions {
        virtual_size_bytes: disk_bytes as u64,
        ..LayerOptions::default()
    };
    let mut builder = LayerBuilder::new(Vec::new(), options).unwrap();
    for (sector, data) in runs {
        builder.append(*sector as u64, data).unwrap();
    }
    builder.finish().unwrap().0
}

/// A host with a cache directory and settings of its own.
pub(crate) struct Host {
    dir: TempDir,
    settings: Value,
}

impl Host {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = json!({
            "cacheConfig": { "cacheType": "file", "cacheDir": dir.path().join("cache") },
            "credentialConfig": { "mode": "file", "path": "" },
            "enableAudit": false,
        });
        Self { dir, settings }
    }

    /// With a key of `overlaybd.json`.
    pub(crate) fn with(mut self, key: &str, value: Value) -> Self {
        self.settings[key] = value;
        self
    }

    /// With misses that are rounded out to so many bytes.
    pub(crate) fn with_refill(mut self, bytes: u64) -> Self {
        self.settings["cacheConfig"]["refillSize"] = json!(bytes);
        self
    }

    /// With a name and a password for what listens at `host`.
    pub(crate) fn with_login(self, host: &str, user: &str, password: &str) -> Self {
        let file = self.dir.path().join("credentials.json");
        let login = json!({ "username": user, "password": password });
        std::fs::write(&file, json!({ "auths": { host: login } }).to_string()).unwrap();
        self.with("credentialConfig", json!({ "mode": "file", "path": file }))
    }

    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// What a process starts with.
    pub(crate) fn service(&self) -> Service {
        Service::new(ServiceConfig::parse(self.settings.to_string().as_bytes()).unwrap())
    }

    /// Opens the image of these blobs in a new process, so to speak.
    pub(crate) fn open(
        &self,
        repo_blob_url: &str,
        blobs: &[(String, u64)],
    ) -> layers::Result<Image> {
        self.open_in(&self.service(), repo_blob_url, blobs)
    }

    pub(crate) fn open_in(
        &self,
        service: &Service,
        repo_blob_url: &str,
        blobs: &[(String, u64)],
    ) -> layers::Result<Image> {
        let config = self.config(repo_blob_url, blobs);
        Image::open(&config, service, Access::Read)
    }

    /// A config file that names these blobs.
    pub(crate) fn config(&self, repo_blob_url: &str, blobs: &[(String, u64)]) -> PathBuf {
        let config = self.dir.path().join("config.v1.json");
        let lower = |(digest, size): &(String, u64)| json!({ "digest": digest, "size": size });
        let text = json!({
            "repoBlobUrl": repo_blob_url,
            "lowers": blobs.iter().map(lower).collect::<Vec<_>>(),
            "resultFile": self.result_file(),
        });
        std::fs::write(&config, text.to_string()).unwrap();
        config
    }

    pub(crate) fn result_file(&self) -> PathBuf {
        self.dir.path().join("result")
    }
}

/// Ranges that cover a disk once, in an order that nobody foresees.
pub(crate) fn pieces(seed: u64, disk_bytes: usize, longest: usize) -> Vec<std::ops::Range<usize>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut pieces = Vec::new();
    let mut begin = 0;
    while begin < disk_bytes {
        let len = SECTOR * random.usize(1..=longest / SECTOR);
        let end = (begin + len).min(disk_bytes);
        pieces.push(begin..end);
        begin = end;
    }
    random.shuffle(&mut pieces);
    pieces
}

/// Reads a piece of `image`, which must have the bytes of `disk` there.
pub(crate) fn read_piece(
    image: &Image,
    disk: &[u8],
    piece: std::ops::Range<usize>,
) -> layers::Result<()> {
    let mut buf = vec![0xAA; piece.len()];
    image.read_exact_at(piece.start as u64, &mut buf)?;
    assert!(buf == disk[piece.clone()], "wrong bytes in {piece:?}");
    Ok(())
}

/// Reads all of `image` in random order; it must be `disk`.
pub(crate) fn assert_is(image: &Image, disk: &[u8]) {
    assert_eq!(image.virtual_size(), disk.len() as u64);
    for piece in pieces(1, disk.len(), 128 << 10) {
        read_piece(image, disk, piece).unwrap();
    }
}
