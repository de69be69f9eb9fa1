//! What these tests share: the vectors and whole-file reads.

use std::path::PathBuf;

use layers::ReadAt;

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
