//! The whole disk, read through the socket by an independent client, is the image.

use crate::blkio_client::Client;
use crate::process::{Daemon, native_image};

/// Depth, block size and queue size: single sectors at a time up to more than the daemon's
/// private buffer, with the queue empty, half full and full.
const SHAPES: [(usize, usize, i32); 5] = [
    (1, 1 << 20, 4),
    (32, 4096, 128),
    (8, 128 << 10, 256),
    (4, 3 << 20, 64),
    (64, 12_800, 256),
];

#[test]
fn the_whole_disk_reads_the_same_through_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (config, image) = native_image(dir.path());
    let socket = dir.path().join("disk.sock");
    let _daemon = Daemon::serve(&config, &socket);
    for (depth, block, queue_size) in SHAPES {
        let mut client = Client::connect(&socket, queue_size, 16 << 20);
        assert_eq!(client.capacity(), image.virtual_size());
        let mut expected = vec![0; block];
        let mut bytes_seen = 0;
        client.read_all(depth, block, |offset, bytes| {
            let expected = &mut expected[..bytes.len()];
            image.read_exact_at(offset, expected).unwrap();
            assert!(
                bytes == &*expected,
                "depth {depth}, block {block}: bytes at {offset} differ"
            );
            bytes_seen += bytes.len() as u64;
        });
        assert_eq!(bytes_seen, image.virtual_size());
    }
}
