//! The whole disk through the socket, by an independent client: what is read is the image, what is
//! written is read.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use blkio::ReqFlags;
use layers::Image;
use layers::lsmt::upper::UpperKind;

use crate::blkio_client::Client;
use crate::process::{
    Daemon, image_of, native_image, native_layers, open_read_only, writable_image,
};

type Shape = (i32, usize, usize, i32);

/// Queues, depth, block size and queue size: single requests and many, on queues that are nearly
/// empty and full, less than a page and more than the daemon's private buffer.
const SHAPES: [Shape; 6] = [
    (1, 1, 1 << 20, 4),
    (1, 32, 4096, 128),
    (1, 8, 128 << 10, 256),
    (1, 4, 3 << 20, 64),
    (1, 64, 12_800, 256),
    (5, 16, 64 << 10, 64),
];

fn assert_reads_as(socket: &Path, image: &Image, (queues, depth, block, queue_size): Shape) {
    let mut client = Client::connect(socket, true, queues, queue_size, 16 << 20);
    assert_eq!(client.capacity(), image.virtual_size());
    let bytes_seen = AtomicU64::new(0);
    client.read_all(depth, block, |offset, bytes| {
        let mut expected = vec![0; bytes.len()];
        image.read_exact_at(offset, &mut expected).unwrap();
        assert!(
            bytes == expected,
            "{queues} queues, depth {depth}, block {block}: bytes at {offset} differ"
        );
        bytes_seen.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    });
    assert_eq!(bytes_seen.into_inner(), image.virtual_size());
}

#[test]
fn the_whole_disk_reads_the_same_through_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (config, image) = native_image(dir.path());
    let socket = dir.path().join("disk.sock");
    let _daemon = Daemon::serve(&config, &socket);
    for shape in SHAPES {
        assert_reads_as(&socket, &image, shape);
    }
}

#[test]
fn a_disk_that_is_not_in_memory_reads_the_same() {
    // Not in /tmp, which may be memory.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let layers = native_layers().map(|layer| {
        let copy = dir.path().join(layer.file_name().unwrap());
        std::fs::copy(&layer, &copy).unwrap();
        copy
    });
    let (config, image) = image_of(dir.path(), &layers);
    let socket = dir.path().join("disk.sock");
    let daemon = Daemon::serve(&config, &socket);
    for layer in &layers {
        evict(layer);
    }
    assert_reads_as(&socket, &image, (2, 16, 64 << 10, 64));
    assert!(
        daemon.threads().contains(&"blocking-io".to_owned()),
        "every read was done at once, from a disk that was not in memory"
    );
}

/// What is written at `offset`, for the `round`th time.
fn fill(round: u64, offset: u64, bytes: &mut [u8]) {
    let words = bytes.chunks_exact_mut(8);
    for (number, word) in (offset / 8..).zip(words) {
        word.copy_from_slice(&(number << 8 | round).to_le_bytes());
    }
}

fn assert_filled(client: &mut Client, round: u64) {
    client.read_all(4, 512 << 10, |offset, bytes| {
        let mut expected = vec![0; bytes.len()];
        fill(round, offset, &mut expected);
        assert!(bytes == expected, "round {round}: bytes at {offset} differ");
    });
}

#[test]
fn the_whole_disk_written_through_the_socket_reads_back() {
    const DISK_BYTES: u64 = 48 << 20;
    for kind in [UpperKind::AppendOnly, UpperKind::Sparse] {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config = writable_image(dir.path(), kind, Some(DISK_BYTES));
        let socket = dir.path().join("disk.sock");
        let mut daemon = Daemon::serve(&config, &socket);
        let mut last = 0;
        for (round, (queues, depth, block, queue_size)) in (1..).zip(SHAPES) {
            let mut client = Client::connect(&socket, false, queues, queue_size, 16 << 20);
            client.write_all(depth, block, |offset, bytes| fill(round, offset, bytes));
            assert_filled(&mut client, round);
            last = round;
        }
        let mut client = Client::connect(&socket, false, 1, 64, 16 << 20);
        client.request(|queue| queue.write_zeroes(4096, 12 << 20, 0, ReqFlags::empty()));
        client.request(|queue| queue.discard(16 << 20, 32 << 20, 0, ReqFlags::empty()));
        client.request(|queue| queue.flush(0, ReqFlags::empty()));
        drop(client);
        daemon.signal("TERM");
        assert_eq!(daemon.wait().code(), Some(0));

        let mut expected = vec![0; usize::try_from(DISK_BYTES).unwrap()];
        fill(last, 0, &mut expected);
        expected[4096..][..12 << 20].fill(0);
        expected[16 << 20..].fill(0);
        let mut bytes = vec![1; expected.len()];
        let image = open_read_only(&config);
        image.read_exact_at(0, &mut bytes).unwrap();
        assert!(bytes == expected, "{kind:?}");
    }
}

/// Drops a file from the page cache.
fn evict(file: &Path) {
    let input = format!("if={}", file.display());
    std::fs::File::open(file).unwrap().sync_all().unwrap();
    let status = Command::new("dd")
        .args([&input, "iflag=nocache", "count=0", "status=none"])
        .status();
    assert!(status.unwrap().success());
}
