//! How long a guest takes from the start of its daemon to its shell, when its image is in a registry
//! behind a slow, distant link. Prints a JSON line for every boot; `scripts/bench-remote` makes a table.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use qemu_tests::guest_assets::GuestAssets;
use qemu_tests::image::Image;
use qemu_tests::lab::Lab;
use qemu_tests::origin::{Blob, Origin, give_to_daemons};
use serde_json::{Value, json};
use test_servers::Shape;

/// How the bytes come to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Way {
    /// The whole image is downloaded before the daemon starts.
    Full,
    /// Nothing is there; reads fetch what they need.
    Demand,
    /// As demand, with a trace that was recorded at an earlier boot.
    Trace,
    /// As demand, with what the host itself has noted at an earlier boot.
    Auto,
    /// The second boot of an image, with what the first one has left in the cache.
    Again,
    /// A background download has ended before the boot.
    Download,
}

/// Boots a guest whose image is behind a slow link.
#[derive(Parser, Debug)]
struct Args {
    /// What to measure.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "full,demand,trace,auto,again,download"
    )]
    ways: Vec<Way>,
    /// How often.
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// Megabits (10^6) a second of the link.
    #[arg(long, default_value_t = 25)]
    megabits: u32,
    /// Milliseconds there and back.
    #[arg(long, default_value_t = 30)]
    round_trip: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let shape = Shape {
        bits_per_second: Some(args.megabits.saturating_mul(1_000_000)),
        round_trip: Duration::from_millis(args.round_trip),
    };
    let origin = Origin::start()?;
    let mut blobs = Vec::new();
    Lab::run(|lab| {
        let image = lab.import_image("root", &GuestAssets::get()?.root_disk)?;
        blobs = origin.take(&image)?;
        Ok(())
    })?;
    let bench = Bench {
        origin,
        blobs,
        shape,
    };
    let image_bytes: u64 = bench.blobs.iter().map(|blob| blob.bytes).sum();
    print(&json!({ "image_bytes": image_bytes, "needed_bytes": bench.needed_bytes()? }))?;
    for _ in 0..args.rounds {
        for way in &args.ways {
            let name = way.to_possible_value().context("a way's name")?;
            let boot = Lab::run_for(|lab| bench.boot(lab, *way))?;
            print(&json!({
                "way": name.get_name(),
                "seconds": boot.time.as_secs_f64(),
                "fetched_bytes": boot.fetched_bytes,
                "requests": boot.requests,
            }))?;
        }
    }
    Ok(())
}

fn print(line: &Value) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

struct Bench {
    origin: Origin,
    blobs: Vec<Blob>,
    shape: Shape,
}

/// What one boot took.
struct Boot {
    time: Duration,
    fetched_bytes: u64,
    requests: usize,
}

impl Bench {
    /// Bytes of the image that a boot reads, in blocks of 4 KiB.
    fn needed_bytes(&self) -> Result<u64> {
        Lab::run_for(|lab| {
            let host = lab.host("exact", json!({ "cacheConfig": { "refillSize": 4096 } }))?;
            let image = self.remote(lab, None, json!({}))?;
            self.origin.proxy.set_shape(Shape::default());
            Ok(self.boot_once(lab, &host, &image)?.fetched_bytes)
        })
    }

    fn remote(&self, lab: &Lab, dir: Option<&Path>, more: Value) -> Result<Image> {
        lab.remote_image(&self.origin, "remote", &self.blobs, dir, more)
    }

    /// Prepares a host over a fast link, then boots over the slow one.
    fn boot(&self, lab: &Lab, way: Way) -> Result<Boot> {
        let proxy = &self.origin.proxy;
        proxy.set_shape(Shape::default());
        let settings = match way {
            Way::Auto => json!({ "prefetchConfig": { "auto": true } }),
            _ => json!({}),
        };
        let host = lab.host("host", settings)?;
        let image = match way {
            Way::Full => return self.download_and_boot(lab, &host),
            Way::Trace => self.record_trace(lab)?,
            Way::Download => self.download_in_background(lab, &host)?,
            Way::Demand | Way::Auto | Way::Again => self.remote(lab, None, json!({}))?,
        };
        match way {
            Way::Auto => {
                self.boot_once(lab, &host, &image)?;
                forget_blobs(&lab.dir().join("host.cache"))?;
            }
            Way::Again => {
                self.boot_once(lab, &host, &image)?;
            }
            _ => {}
        }
        proxy.set_shape(self.shape);
        self.boot_once(lab, &host, &image)
    }

    /// From the start of the daemon to the guest's shell.
    fn boot_once(&self, lab: &Lab, host: &Path, image: &Image) -> Result<Boot> {
        self.origin.proxy.forget();
        self.boot_from(lab, host, image, Instant::now())
    }

    fn boot_from(&self, lab: &Lab, host: &Path, image: &Image, started: Instant) -> Result<Boot> {
        let daemon = lab.start_daemon_on(Some(host), "bench", &[image])?;
        let vm = lab.vm("bench").disk(daemon.socket(0)?);
        let vm = vm.root_on_first_disk().boot()?;
        let time = started.elapsed();
        vm.shut_down()?;
        daemon.stop()?;
        Ok(Boot {
            time,
            fetched_bytes: self.origin.proxy.body_bytes(),
            requests: self.origin.proxy.requests(),
        })
    }

    fn download_and_boot(&self, lab: &Lab, host: &Path) -> Result<Boot> {
        self.origin.proxy.set_shape(self.shape);
        self.origin.proxy.forget();
        let started = Instant::now();
        let mut layers = Vec::new();
        for (number, blob) in self.blobs.iter().enumerate() {
            let path = lab.dir().join(format!("downloaded{number}"));
            let url = format!("{}/{}", self.origin.repo_blob_url(), blob.digest);
            let client = reqwest::blocking::Client::builder();
            let client = client.no_proxy().timeout(None).build()?;
            let mut answer = client.get(url).send()?.error_for_status()?;
            ensure!(answer.copy_to(&mut File::create(&path)?)? == blob.bytes);
            layers.push(path);
        }
        let image = lab.image_of_layers("downloaded", &layers)?;
        self.boot_from(lab, host, &image, started)
    }

    /// A boot whose reads are recorded, on another host.
    fn record_trace(&self, lab: &Lab) -> Result<Image> {
        let dir = lab.dir().join("trace");
        fs::create_dir(&dir)?;
        give_to_daemons(&dir)?;
        let trace = dir.join("trace");
        File::create(&trace)?;
        give_to_daemons(&trace)?;
        let image = self.remote(lab, None, json!({ "recordTracePath": trace }))?;
        let recording = lab.host("recording", json!({}))?;
        self.boot_once(lab, &recording, &image)?;
        ensure!(fs::metadata(&trace)?.len() > 0, "no trace was recorded");
        Ok(image)
    }

    /// A daemon that serves nobody until every layer is on the host.
    fn download_in_background(&self, lab: &Lab, host: &Path) -> Result<Image> {
        let layers = lab.dir().join("layers");
        let at_once = json!({ "enable": true, "delay": 0, "delayExtra": 1, "maxMBps": 0 });
        let image = self.remote(lab, Some(&layers), json!({ "download": at_once }))?;
        let daemon = lab.start_daemon_on(Some(host), "downloading", &[&image])?;
        let whole: Vec<PathBuf> = (0..self.blobs.len())
            .map(|number| layers.join(number.to_string()).join("overlaybd.commit"))
            .collect();
        // Nothing tells when a foreign process renames a file.
        let (_never, pause) = mpsc::channel::<()>();
        let deadline = lab.deadline(120);
        while !whole.iter().all(|path| path.exists()) {
            deadline.remaining("the download")?;
            pause.recv_timeout(Duration::from_millis(100)).ok();
        }
        daemon.stop()?;
        Ok(image)
    }
}

/// Removes what is kept of blobs; traces stay.
fn forget_blobs(cache: &Path) -> Result<()> {
    let mut traces = false;
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => traces |= entry.file_name() == "traces",
            false => fs::remove_file(entry.path())?,
        }
    }
    match traces {
        true => Ok(()),
        false => bail!("the first boot has left no trace in {}", cache.display()),
    }
}
