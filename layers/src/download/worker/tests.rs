//! The order of attempts and their times, on a clock that passes only while somebody waits.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

use super::super::clock::tests::Virtual;
use super::super::{Shared, Switch};
use super::*;
use crate::cache::{BlobUse, Cache, Patience, Place};
use crate::config::CacheConfig;
use crate::error::{Remote, Result};
use crate::metrics::Metrics;
use crate::range_source::{RangeSource, Sink, Urgency};

/// A blob in memory, and what was asked of it.
#[derive(Debug)]
struct Memory {
    digest: String,
    bytes: Vec<u8>,
    clock: Arc<Virtual>,
    asked: Mutex<Vec<(Range<u64>, Duration)>>,
    fails: Mutex<u32>,
    /// So many requests get wrong bytes.
    lies: Mutex<u32>,
}

impl RangeSource for Memory {
    fn name(&self) -> &str {
        &self.digest
    }

    fn size(&self, _: Instant) -> Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn fetch(&self, range: Range<u64>, _: Urgency, _: Instant, sink: &mut Sink<'_>) -> Result<()> {
        let mut asked = self.asked.lock().unwrap();
        asked.push((range.clone(), self.clock.passed()));
        drop(asked);
        let mut fails = self.fails.lock().unwrap();
        if *fails > 0 {
            *fails -= 1;
            let kind = ErrorKind::Remote(Remote::Connection);
            return Err(Error::new(kind, "fetch blob", "connection refused"));
        }
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let mut bytes = self.bytes[range].to_vec();
        let mut lies = self.lies.lock().unwrap();
        if *lies > 0 {
            *lies -= 1;
            bytes[0] ^= 1;
        }
        bytes.chunks(7000).try_for_each(sink)
    }
}

/// What the cache asks in vain: it has nothing.
#[derive(Debug)]
struct Nothing(u64);

impl RangeSource for Nothing {
    fn name(&self) -> &str {
        "nothing"
    }

    fn size(&self, _: Instant) -> Result<u64> {
        Ok(self.0)
    }

    fn fetch(&self, _: Range<u64>, _: Urgency, _: Instant, _: &mut Sink<'_>) -> Result<()> {
        let kind = ErrorKind::Remote(Remote::NotFound);
        Err(Error::new(kind, "fetch blob", "there is none"))
    }
}

struct Scene {
    dir: tempfile::TempDir,
    clock: Arc<Virtual>,
    metrics: Arc<Metrics>,
    config: DownloadConfig,
    free_floor_bytes: u64,
}

impl Scene {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::default(),
            metrics: Arc::default(),
            config: DownloadConfig {
                delay: 0,
                delay_extra: 1,
                max_mib_per_second: 0,
                ..DownloadConfig::default()
            },
            free_floor_bytes: 0,
        }
    }

    fn layer(&self, name: &str, bytes: Vec<u8>, fails: u32) -> (RemoteLayer, Arc<Memory>) {
        let hex: String = Sha256::digest(&bytes)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let source = Arc::new(Memory {
            digest: format!("sha256:{hex}"),
            bytes,
            clock: Arc::clone(&self.clock),
            asked: Mutex::default(),
            fails: Mutex::new(fails),
            lies: Mutex::new(0),
        });
        let cache = CacheConfig {
            dir: self.dir.path().join("cache"),
            ..CacheConfig::default()
        };
        let cache = Cache::open(&cache, &self.metrics, &Arc::default()).unwrap();
        let wanted = BlobUse {
            digest: source.digest.clone(),
            place: Place::Shared,
            patience: Arc::new(Patience::new(Duration::from_secs(9))),
            journal: Arc::default(),
        };
        let cached = Arc::new(
            cache
                .blob(Arc::new(Nothing(source.bytes.len() as u64)), wanted)
                .unwrap(),
        );
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let layer = RemoteLayer {
            dir,
            cache_is_beside: false,
            digest: source.digest.clone(),
            size: source.bytes.len() as u64,
            source: Arc::clone(&source) as _,
            switch: Arc::new(Switch::new(
                Arc::clone(&cached),
                &self.metrics,
                &Arc::default(),
            )),
            cached,
        };
        (layer, source)
    }

    fn run(&self, layers: Vec<RemoteLayer>) {
        let shared = Shared {
            clock: Arc::clone(&self.clock) as _,
            metrics: Arc::clone(&self.metrics),
            audit: Arc::default(),
            free_floor_bytes: self.free_floor_bytes,
        };
        Worker::new(&self.config, layers, shared).run();
    }

    fn whole(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(whole_path(&self.dir.path().join(name))).ok()
    }
}

fn bytes(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(len as u64);
    (0..len).map(|_| random.u8(..)).collect()
}

#[test]
fn a_layer_takes_as_long_as_the_limit_says() {
    let mut scene = Scene::new();
    scene.config.max_mib_per_second = 1;
    let content = bytes((10 << 20) + 5);
    let (layer, source) = scene.layer("a", content.clone(), 0);
    scene.run(vec![layer]);
    assert_eq!(scene.whole("a"), Some(content));
    let asked = source.asked.lock().unwrap();
    let (last, time) = asked.last().unwrap();
    // All before the last request was due by then.
    let wanted = last.start as f64 / f64::from(1 << 20);
    assert!(
        (time.as_secs_f64() - wanted).abs() < 0.2,
        "{time:?} {wanted}"
    );
    assert!(
        asked
            .iter()
            .all(|(range, _)| range.end - range.start <= 256 << 10)
    );
}

#[test]
fn without_a_limit_requests_grow_to_4_mib() {
    let scene = Scene::new();
    let (layer, source) = scene.layer("a", bytes(20 << 20), 0);
    scene.run(vec![layer]);
    let asked = source.asked.lock().unwrap();
    let longest = asked.iter().map(|(range, _)| range.end - range.start).max();
    assert_eq!(longest, Some(4 << 20));
    assert_eq!(scene.clock.passed(), Duration::ZERO);
}

#[test]
fn a_layer_that_fails_goes_behind_the_others_and_is_tried_again_later() {
    let scene = Scene::new();
    let (first, flaky) = scene.layer("a", bytes(300_000), 2);
    let (second, steady) = scene.layer("b", bytes(100), 0);
    scene.run(vec![first, second]);
    let times = |source: &Memory| -> Vec<_> {
        let asked = source.asked.lock().unwrap();
        asked.iter().map(|(_, time)| time.as_secs()).collect()
    };
    assert_eq!(times(&flaky), [0, 5, 15]);
    assert_eq!(times(&steady), [0]);
    assert!(scene.whole("a").is_some() && scene.whole("b").is_some());
    assert_eq!(
        scene
            .metrics
            .download_layers
            .load(std::sync::atomic::Ordering::Relaxed),
        2
    );
}

#[test]
fn wrong_bytes_are_all_fetched_again() {
    let scene = Scene::new();
    let content = bytes(600_000);
    let (layer, source) = scene.layer("a", content.clone(), 0);
    *source.lies.lock().unwrap() = 1;
    scene.run(vec![layer]);
    assert_eq!(scene.whole("a"), Some(content));
    let asked = source.asked.lock().unwrap();
    let lens = asked.iter().map(|(range, _)| range.end - range.start);
    assert_eq!(lens.sum::<u64>(), 2 * 600_000);
}

#[test]
fn wrong_bytes_that_were_left_behind_are_all_fetched_again() {
    let scene = Scene::new();
    let content = bytes(600_000);
    let (layer, source) = scene.layer("a", content.clone(), 0);
    std::fs::write(layer.dir.join(".download"), vec![7; 600_000]).unwrap();
    scene.run(vec![layer]);
    assert_eq!(scene.whole("a"), Some(content));
    assert_eq!(source.asked.lock().unwrap()[0].0.start, 0);
    assert_eq!(scene.clock.passed(), Duration::from_secs(5));
}

#[test]
fn wrong_bytes_that_the_cache_gave_are_dropped_from_it_and_right_ones_stay() {
    let scene = Scene::new();
    let content = bytes(600_000);
    let (layer, source) = scene.layer("a", content.clone(), 0);
    let mut wrong = content.clone();
    wrong[300_000] ^= 1;
    let liar = Memory {
        digest: source.digest.clone(),
        bytes: wrong,
        clock: Arc::clone(&scene.clock),
        asked: Mutex::default(),
        fails: Mutex::new(0),
        lies: Mutex::new(0),
    };
    let other = CacheConfig {
        dir: scene.dir.path().join("cache"),
        free_floor_mib: 0,
        ..CacheConfig::default()
    };
    let other = Cache::open(&other, &scene.metrics, &Arc::default()).unwrap();
    let wanted = BlobUse {
        digest: source.digest.clone(),
        place: Place::Shared,
        patience: Arc::new(Patience::new(Duration::from_secs(60))),
        journal: Arc::default(),
    };
    let filler = other.blob(Arc::new(liar), wanted).unwrap();
    while filler.present_bytes() < 600_000 {
        filler.prefetch(0..600_000, Urgency::Guest).unwrap();
    }
    let cached = Arc::clone(&layer.cached);
    scene.run(vec![layer]);
    assert_eq!(scene.whole("a"), Some(content));
    let mut buf = [0; 4096];
    let place = 300_000 / 4096 * 4096;
    assert!(!cached.read_if_present(place, &mut buf).unwrap());
    assert_eq!(cached.present_bytes(), 600_000 - 4096);
}

#[test]
fn so_many_attempts_and_no_more_and_what_came_stays() {
    let mut scene = Scene::new();
    scene.config.try_cnt = 3;
    let (layer, source) = scene.layer("a", bytes(300_000), u32::MAX);
    let switch = Arc::clone(&layer.switch);
    scene.run(vec![layer]);
    assert_eq!(source.asked.lock().unwrap().len(), 3);
    assert!(!switch.is_local());
    assert_eq!(scene.whole("a"), None);
    assert!(scene.dir.path().join("a/.download").exists());
}

#[test]
fn a_layer_that_somebody_else_downloads_costs_no_attempt() {
    let mut scene = Scene::new();
    scene.config.try_cnt = 1;
    Arc::get_mut(&mut scene.clock).unwrap().end = Some(Duration::from_secs(60));
    let content = bytes(5000);
    let (layer, source) = scene.layer("a", content, 0);
    let other = std::fs::File::create(layer.dir.join(".download")).unwrap();
    other.lock().unwrap();
    scene.run(vec![layer]);
    assert_eq!(source.asked.lock().unwrap().len(), 0);
    assert!(scene.clock.passed() >= Duration::from_secs(60));
}

#[test]
fn what_cannot_succeed_is_not_tried_again() {
    let scene = Scene::new();
    let (mut no_dir, source) = scene.layer("a", bytes(5000), 0);
    no_dir.dir = Path::new("/nonexistent").to_owned();
    let (mut no_digest, other) = scene.layer("b", bytes(6000), 0);
    no_digest.digest = "sha512:00".to_owned();
    scene.run(vec![no_dir, no_digest]);
    assert_eq!(scene.clock.passed(), Duration::ZERO);
    assert!(source.asked.lock().unwrap().is_empty() && other.asked.lock().unwrap().is_empty());
    assert_eq!(
        std::fs::read_dir(scene.dir.path().join("b"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn so_much_of_the_file_system_is_left_free() {
    let mut scene = Scene::new();
    scene.free_floor_bytes = u64::MAX / 2;
    let (layer, source) = scene.layer("a", bytes(5000), 0);
    scene.run(vec![layer]);
    assert!(source.asked.lock().unwrap().is_empty());
    assert_eq!(
        std::fs::read_dir(scene.dir.path().join("a"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn the_delay_is_random_within_its_bounds() {
    let config = |delay, delay_extra| DownloadConfig {
        delay,
        delay_extra,
        ..DownloadConfig::default()
    };
    assert_eq!(delay(&config(7, 1)), Duration::from_secs(7));
    let delays: Vec<_> = (0..50).map(|_| delay(&config(300, 0))).collect();
    assert!(
        delays
            .iter()
            .all(|delay| (300_000..=329_000).contains(&delay.as_millis()))
    );
    assert!(delays.iter().any(|delay| *delay != delays[0]));
    assert!(delay(&config(u64::MAX, u64::MAX)) < Duration::from_secs(1 << 40));
}

#[test]
fn pieces_are_whole_blocks_of_a_bounded_size() {
    assert_eq!(piece_bytes(0), 4096);
    assert_eq!(piece_bytes(262_144), 262_144);
    assert_eq!(piece_bytes(5000), 8192);
    assert_eq!(piece_bytes(u64::MAX), 4 << 20);
}
