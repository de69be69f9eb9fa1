//! What these tests share: the vectors and whole-file reads.

use std::io::{Cursor, Write};
use std::path::PathBuf;

use layers::ReadAt;
use layers::io::MemoryFile;
use layers::zfile::{BuildOptions, ZFile, ZFileBuilder};

/// A zfile that the C++ tools made, and what it was made from.
pub(crate) struct Vector {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) input: Vec<u8>,
    pub(crate) algorithm: String,
    pub(crate) block_bytes: u32,
}

/// The file `name` of the zfile vectors.
pub(crate) fn vector_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("vectors/zfile")
        .join(name)
}

/// The bytes of `name` of the zfile vectors.
pub(crate) fn vector(name: &str) -> Vec<u8> {
    std::fs::read(vector_path(name)).unwrap()
}

/// All vectors but the tar-wrapped one.
pub(crate) fn zfile_vectors() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for input in ["empty", "one", "mixed-262144", "rnd-100001", "text-300000"] {
        for algorithm in ["lz4", "zstd"] {
            for block_kib in [4, 64] {
                let name = format!("{input}.{algorithm}.{block_kib}.zfile");
                vectors.push(Vector {
                    path: vector_path(&name),
                    input: vector(input),
                    algorithm: algorithm.to_owned(),
                    block_bytes: block_kib << 10,
                    name,
                });
            }
        }
    }
    vectors
}

/// Everything in `file`.
pub(crate) fn read_whole(file: &dyn ReadAt) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.size()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

/// A zfile of `input` with `options`.
pub(crate) fn build(input: &[u8], options: BuildOptions) -> Vec<u8> {
    let mut builder = ZFileBuilder::new(Cursor::new(Vec::new()), options).unwrap();
    builder.write_all(input).unwrap();
    let built = builder.finish().unwrap();
    assert_eq!(built.original_bytes, input.len() as u64);
    let bytes = built.sink.into_inner();
    assert_eq!(built.file_bytes, bytes.len() as u64);
    bytes
}

/// `bytes` as a zfile.
pub(crate) fn open(bytes: Vec<u8>) -> layers::Result<ZFile> {
    ZFile::open(Box::new(MemoryFile::new("memory", bytes)))
}

/// Opens `bytes` and reads all of it.
pub(crate) fn decode(bytes: Vec<u8>) -> layers::Result<Vec<u8>> {
    let zfile = open(bytes)?;
    let mut decoded = vec![0; usize::try_from(zfile.size()).unwrap()];
    zfile.read_exact_at(0, &mut decoded)?;
    Ok(decoded)
}

/// Bytes that compress about twofold, different for every `seed`.
pub(crate) fn mixed_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend_from_slice(&state.to_le_bytes());
        bytes.extend_from_slice(b"the same again");
    }
    bytes.truncate(len);
    bytes
}
