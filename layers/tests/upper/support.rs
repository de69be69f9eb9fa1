//! What the tests of writable layers share: vector files, fresh pairs, images on them.

use std::path::{Path, PathBuf};
use std::process::Command;

use layers::io::LocalFile;
use layers::lsmt::upper::{CreateOptions, Upper, UpperKind, create};
use layers::lsmt::{Layer, Uuid};
use layers::zfile::{self, ZFile};
use layers::{Image, ReadAt, tar};
use tempfile::TempDir;

/// Both kinds.
pub(crate) const KINDS: [UpperKind; 2] = [UpperKind::AppendOnly, UpperKind::Sparse];

/// A file that the C++ tools wrote.
pub(crate) fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(name)
}

/// Unpacks the writable vectors: they are sparse, so the repository holds a tar.
pub(crate) fn writable() -> TempDir {
    let dir = scratch();
    let tar = Command::new("tar")
        .arg("--zstd")
        .arg("-xSf")
        .arg(vector("writable/writable.tar.zst"))
        .arg("-C")
        .arg(dir.path())
        .status();
    assert!(tar.unwrap().success(), "tar with zstd unpacks the vectors");
    dir
}

/// A directory beside the build: on a file system with holes and RWF_NOWAIT.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A directory in memory where there is one: thousands of layers are flushed there.
pub(crate) fn quick_scratch() -> TempDir {
    match Path::new("/dev/shm").is_dir() {
        true => tempfile::tempdir_in("/dev/shm").unwrap(),
        false => scratch(),
    }
}

/// A read-only layer of any wrapping.
pub(crate) fn layer(path: &Path) -> Layer {
    let payload = tar::unwrap(Box::new(LocalFile::open(path).unwrap())).unwrap();
    let source: Box<dyn ReadAt> = match zfile::detect(&*payload).unwrap() {
        true => Box::new(ZFile::open(payload).unwrap()),
        false => payload,
    };
    Layer::open(source).unwrap()
}

/// The two lowers below the writable vectors.
pub(crate) fn lowers() -> Vec<Layer> {
    ["native/layer0.obd", "native/layer1.obd"]
        .map(|name| layer(&vector(name)))
        .into()
}

/// The paths of a pair in a directory.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) data: PathBuf,
    pub(crate) index: PathBuf,
}

impl Pair {
    pub(crate) fn named(dir: &Path, name: &str) -> Self {
        Self {
            data: dir.join(format!("{name}.data")),
            index: dir.join(format!("{name}.index")),
        }
    }

    /// Makes a new pair.
    pub(crate) fn create(dir: &Path, name: &str, kind: UpperKind, virtual_size_bytes: u64) -> Self {
        let pair = Self::named(dir, name);
        let options = CreateOptions {
            kind,
            virtual_size_bytes,
            parent_uuid: Uuid::NIL,
        };
        create(&pair.data, &pair.index, options).unwrap();
        pair
    }

    pub(crate) fn open(&self) -> layers::Result<Upper> {
        Upper::open(&self.data, &self.index)
    }

    /// A disk that is written, over `lowers`.
    pub(crate) fn image(&self, lowers: Vec<Layer>) -> Image {
        Image::with_upper(lowers, self.open().unwrap()).unwrap()
    }
}
