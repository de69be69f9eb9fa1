//! Processes that share a directory: this test program, started again, reading from one origin on
//! loopback that counts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use layers::error::Remote;
use layers::range_source::{RangeSource, Sink, Urgency};
use layers::{Error, ErrorKind, Result};

use crate::support::{DIGEST, Host, content, read};

const SIZE: usize = 12_000_001;
const SEED: u64 = 60;
/// Set for the processes that read: directory, port, seed, reads, MiB of the cache.
const ARGUMENTS: &str = "OBD_CACHE_READER";

/// The blob of the server on a port. A request is start and end, 8 bytes each; the answer the bytes.
#[derive(Debug)]
struct Loopback(u16);

impl RangeSource for Loopback {
    fn name(&self) -> &str {
        DIGEST
    }

    fn size(&self, _deadline: Instant) -> Result<u64> {
        Ok(SIZE as u64)
    }

    fn fetch(
        &self,
        range: Range<u64>,
        _urgency: Urgency,
        _deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let broken = |_| Error::new(ErrorKind::Remote(Remote::Connection), "fetch", "broken");
        let mut stream = TcpStream::connect(("127.0.0.1", self.0)).map_err(broken)?;
        stream
            .write_all(&range.start.to_le_bytes())
            .map_err(broken)?;
        stream.write_all(&range.end.to_le_bytes()).map_err(broken)?;
        let mut buf = vec![0; 16_384];
        let mut left = range.end - range.start;
        while left > 0 {
            let len = buf.len().min(usize::try_from(left).unwrap());
            let got = stream.read(&mut buf[..len]).map_err(broken)?;
            if got == 0 {
                return Err(Error::new(
                    ErrorKind::Remote(Remote::Connection),
                    "fetch",
                    "closed",
                ));
            }
            sink(&buf[..got])?;
            left -= got as u64;
        }
        Ok(())
    }
}

/// Serves until the test program ends. Counts the bytes that were asked for.
fn serve(bytes: Arc<Vec<u8>>) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&served);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (bytes, counter) = (Arc::clone(&bytes), Arc::clone(&counter));
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut request = [0; 16];
                stream.read_exact(&mut request).ok()?;
                let number = |at: usize| {
                    let bytes = request[at..at + 8].try_into().unwrap();
                    usize::try_from(u64::from_le_bytes(bytes)).unwrap()
                };
                let part = &bytes[number(0)..number(8)];
                counter.fetch_add(part.len() as u64, Ordering::SeqCst);
                // As far away as a registry: long enough for others to want the same.
                wait_a_little(Duration::from_millis(10));
                stream.write_all(part).ok()
            });
        }
    });
    (port, served)
}

fn start_reader(dir: &Path, port: u16, seed: u64, reads: u64, mib: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "processes::reader", "--nocapture", "--ignored"])
        .env(
            ARGUMENTS,
            format!("{}|{port}|{seed}|{reads}|{mib}", dir.display()),
        )
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until a reader has said that it reads.
fn wait_for_start(reader: &mut Child) {
    let mut lines = BufReader::new(reader.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("reader begins")));
    // The pipe stays open for the rest, which nobody needs.
    std::thread::spawn(move || lines.for_each(drop));
}

#[test]
#[ignore = "one of the processes that the other tests start"]
fn reader() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        println!("NOT RUN: started by the other tests only");
        return;
    };
    let arguments: Vec<_> = arguments.split('|').collect();
    let number = |at: usize| arguments[at].parse::<u64>().unwrap();
    let (port, seed, reads) = (u16::try_from(number(1)).unwrap(), number(2), number(3));
    let mut host = Host::new();
    host.config.dir = arguments[0].into();
    host.config.size_mib = Some(number(4));
    let bytes = content(SEED, SIZE);
    let cache = host.cache();
    let wanted = layers::cache::BlobUse {
        digest: DIGEST.to_owned(),
        place: layers::cache::Place::Shared,
        patience: Arc::clone(&host.patience),
        journal: Arc::clone(&host.journal),
    };
    let blob = cache.blob(Arc::new(Loopback(port)), wanted).unwrap();
    println!("reader begins");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..reads {
        let start = random.usize(..SIZE - 30_000);
        let len = random.usize(1..30_000);
        assert!(
            read(&blob, start as u64, len) == bytes[start..start + len],
            "wrong at {start}"
        );
    }
    for (number, part) in bytes.chunks(100_000).enumerate() {
        assert!(
            read(&blob, number as u64 * 100_000, part.len()) == *part,
            "wrong in {number}"
        );
    }
}

fn wait_for_success(reader: &mut Child) {
    assert!(
        reader.wait().unwrap().success(),
        "a reader has failed: its output is above"
    );
}

#[test]
fn eight_processes_fetch_each_byte_once() {
    let host = Host::new();
    let (port, served) = serve(Arc::new(content(SEED, SIZE)));
    let mut readers: Vec<_> = (0..8)
        .map(|seed| start_reader(&host.config.dir, port, seed, 300, 4096))
        .collect();
    readers.iter_mut().for_each(wait_for_start);
    readers.iter_mut().for_each(wait_for_success);
    let served = served.load(Ordering::SeqCst);
    assert!(
        served <= SIZE as u64 / 10 * 11,
        "{served} bytes for a blob of {SIZE}"
    );
}

#[test]
fn processes_that_are_killed_leave_a_sound_cache_and_nobody_waiting() {
    let bytes = content(SEED, SIZE);
    let (port, _) = serve(Arc::new(bytes.clone()));
    let mut random = fastrand::Rng::with_seed(61);
    for round in 0..6 {
        let host = Host::new();
        let dir = &host.config.dir;
        // Every second round with evictions.
        let mib = if round % 2 == 0 { 4096 } else { 6 };
        let mut survivor = start_reader(dir, port, 100 + round, 100, mib);
        let mut victims: Vec<_> = (0..3)
            .map(|seed| start_reader(dir, port, 10 * round + seed, 100_000, mib))
            .collect();
        victims.iter_mut().for_each(wait_for_start);
        wait_for_start(&mut survivor);
        for victim in &mut victims {
            wait_a_little(Duration::from_millis(random.u64(..60)));
            victim.kill().unwrap();
            victim.wait().unwrap();
        }
        wait_for_success(&mut survivor);
        // What they left is read by a new process, whose every block is checked again.
        let mut last = start_reader(dir, port, 7, 10, mib);
        wait_for_start(&mut last);
        wait_for_success(&mut last);
    }
}

/// Lets the readers go on for a time that differs from kill to kill.
fn wait_a_little(time: Duration) {
    let (_never, nothing) = std::sync::mpsc::channel::<()>();
    assert!(nothing.recv_timeout(time).is_err());
}
