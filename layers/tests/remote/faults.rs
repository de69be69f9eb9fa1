//! Whatever a registry, a network or a cache disk does, a guest never sees a wrong byte, and never
//! waits beyond its deadline.
//!
//! Every run has a seed, and so its own image, faults and order of reads.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use test_servers::{DockerRegistry, Fault, Faults, Proxy};

use crate::support::{Host, Layered, REPO, pieces, read_piece};

const RUNS: u64 = 1000;
const THREADS: u64 = 8;
const IMAGES: u64 = 40;

/// Longest time of a run; its reads wait 20 s.
const RUN_TIME: Duration = Duration::from_secs(60);

struct Pushed {
    image: Layered,
    blobs: Vec<(String, u64)>,
}

#[derive(Debug, Default)]
struct Totals {
    reads: AtomicU64,
    errors: AtomicU64,
    faults: AtomicU64,
    flips_in_cache: AtomicU64,
}

fn push_images(registry: &DockerRegistry) -> Vec<Pushed> {
    let push = |seed| {
        let disk_bytes = 4096 * fastrand::Rng::with_seed(seed).usize(16..512);
        let layers = usize::try_from(seed % 3 + 1).unwrap();
        let image = Layered::new(seed, disk_bytes, layers);
        let blobs = image.push(registry);
        Pushed { image, blobs }
    };
    (0..IMAGES).map(push).collect()
}

#[test]
fn a_thousand_runs_through_faults_give_right_bytes_or_an_error_in_time() {
    let registry = DockerRegistry::plain().unwrap();
    let images = push_images(&registry);
    let (totals, next) = (Totals::default(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let runner = || {
            let (begun, ended) = mpsc::channel();
            scope.spawn(|| {
                let begun = begun;
                while let Some(seed) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < RUNS)
                {
                    begun.send(seed).unwrap();
                    let pushed = &images[usize::try_from(seed % IMAGES).unwrap()];
                    run(seed, &registry, pushed, &totals);
                }
            });
            ended
        };
        let runners: Vec<_> = (0..THREADS).map(|_| runner()).collect();
        for runner in runners {
            let mut seed = None;
            loop {
                match runner.recv_timeout(RUN_TIME) {
                    Ok(begun) => seed = Some(begun),
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        eprintln!("the run with seed {seed:?} hangs");
                        std::process::abort();
                    }
                }
            }
        }
    });
    eprintln!("{RUNS} runs: {totals:?}");
    let Totals {
        reads,
        errors,
        faults,
        ..
    } = totals;
    assert!(faults.into_inner() > RUNS, "the proxy did its part");
    let (reads, errors) = (reads.into_inner(), errors.into_inner());
    assert!(errors * 50 < reads, "{errors} of {reads} reads failed");
}

fn run(seed: u64, registry: &DockerRegistry, pushed: &Pushed, totals: &Totals) {
    let mut random = fastrand::Rng::with_seed(seed);
    let proxy = Proxy::start(registry.address()).unwrap();
    let mut kinds = Fault::TRANSIENT.to_vec();
    let flips = random.u32(..4) == 0;
    if flips {
        kinds = vec![Fault::FlippedBit];
    }
    proxy.set_faults(Faults::random(seed, random.u32(50..400), kinds));
    let mut host = Host::new().with("readRetrySeconds", json!(20));
    if random.bool() {
        host = host.with_refill(4096 << random.u32(..5));
    }
    let read = |strict: bool, seed: u64| {
        let count = |result: layers::Result<()>| {
            totals.reads.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = result {
                assert!(!strict, "seed {seed}: {error}");
                totals.errors.fetch_add(1, Ordering::Relaxed);
            }
        };
        let image = match host.open(&proxy.repo_blob_url(REPO), &pushed.blobs) {
            Ok(image) => image,
            Err(error) => return count(Err(error)),
        };
        for piece in pieces(seed, pushed.image.disk.len(), 64 << 10) {
            count(read_piece(&image, &pushed.image.disk, piece));
        }
    };
    // Only a wrong bit may be there every time that the bytes are fetched.
    read(!flips, seed);
    flip_in_cache(&host.cache_dir(), &mut random, totals);
    read(!flips, seed + 1);
    let spoiled = proxy.log().iter().filter(|one| one.fault.is_some()).count();
    totals.faults.fetch_add(spoiled as u64, Ordering::Relaxed);
}

/// Flips one bit of what is kept of a blob.
fn flip_in_cache(dir: &Path, random: &mut fastrand::Rng, totals: &Totals) {
    let names = std::fs::read_dir(dir).unwrap();
    let is_blob = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("sha256:") && name.len() == "sha256:".len() + 64
    };
    let mut blobs: Vec<_> = names
        .map(|name| name.unwrap().path())
        .filter(is_blob)
        .collect();
    blobs.sort();
    let blob = &blobs[random.usize(..blobs.len())];
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(blob)
        .unwrap();
    let (mut byte, place) = ([0], random.u64(..file.metadata().unwrap().len()));
    file.read_exact_at(&mut byte, place).unwrap();
    if byte == [0] {
        return; // May be a hole.
    }
    byte[0] ^= 1 << random.u32(..8);
    file.write_all_at(&byte, place).unwrap();
    totals.flips_in_cache.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_registry_that_falls_silent_in_the_middle_is_an_error_in_time() {
    let registry = DockerRegistry::plain().unwrap();
    let image = Layered::new(1, 4 << 20, 1);
    let blobs = image.push(&registry);
    let proxy = Proxy::start(registry.address()).unwrap();
    let host = Host::new().with("readRetrySeconds", json!(3));
    let disk = host.open(&proxy.repo_blob_url(REPO), &blobs).unwrap();
    proxy.set_faults(Faults::always(Fault::Stall));
    let piece = 2 << 20..(2 << 20) + (256 << 10);
    let started = std::time::Instant::now();
    read_piece(&disk, &image.disk, piece.clone()).unwrap_err();
    let time = started.elapsed().as_millis();
    assert!((2000..6000).contains(&time), "{time} ms");
    proxy.set_faults(Faults::none());
    read_piece(&disk, &image.disk, piece).unwrap();
}
