//! The load client against a server nobody here wrote, `qemu-storage-daemon`: what it says about
//! a disk must be true before it may judge ours.

#![cfg(test)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use qemu_tests::load::disk::{Completions, Disk, Setup, Span};
use qemu_tests::load::measure::{self, Action, Plan};
use qemu_tests::load::pattern::{Mode, Pattern};
use qemu_tests::load::verify::whole_disk;
use qemu_tests::load::writes::Writes;
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// A raw file served by `qemu-storage-daemon`.
struct Served {
    daemon: Child,
    dir: TempDir,
}

impl Served {
    fn new(bytes: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let raw = dir.path().join("raw");
        std::fs::write(&raw, bytes).unwrap();
        let blockdev = format!("driver=file,node-name=disk,filename={}", raw.display());
        let export = format!(
            "type=vhost-user-blk,id=export,node-name=disk,writable=on,addr.type=unix,addr.path={}",
            dir.path().join("socket").display()
        );
        let mut daemon = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &blockdev, "--export", &export])
            .args(["--chardev", "stdio,id=monitor"])
            .args(["--monitor", "chardev=monitor"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-storage-daemon is installed (scripts/install-deps)");
        // The monitor greets when every export is there.
        let mut greeting = String::new();
        BufReader::new(daemon.stdout.as_mut().unwrap())
            .read_line(&mut greeting)
            .unwrap();
        assert!(greeting.contains("QMP"), "{greeting}");
        Self { daemon, dir }
    }

    fn raw(&self) -> PathBuf {
        self.dir.path().join("raw")
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn connect(&self, slots: usize) -> Disk {
        Disk::connect(&self.socket(), setup(slots)).unwrap()
    }

    fn plan(&self) -> Plan {
        Plan {
            socket: self.socket(),
            completions: Completions::Interrupt,
            mode: Mode::Rand,
            request_bytes: 4096,
            depth: 8,
            span_bytes: None,
            window: Duration::from_millis(300),
            requests: None,
            seed: 1,
            server: Some(self.daemon.id()),
            ignored: Vec::new(),
            action: Action::Read {
                compare: Some(self.raw()),
            },
        }
    }
}

fn setup(slots: usize) -> Setup {
    Setup {
        completions: Completions::Interrupt,
        writable: true,
        slots,
        slot_bytes: 4096,
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

/// No two sectors alike.
fn distinct_sectors(bytes: usize) -> Vec<u8> {
    (0..bytes / 8)
        .flat_map(|word| {
            (word as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes()
        })
        .collect()
}

fn change_byte(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_disk_that_equals_its_raw_file_is_verified_whole() {
    let served = Served::new(&distinct_sectors(3 * MIB + 5 * 512));
    let verified = whole_disk(&served.socket(), &served.raw()).unwrap();
    assert_eq!(verified.capacity, 3 * (1 << 20) + 5 * 512);
    assert!(verified.reads > 2 * 768, "{verified:?}");
}

#[test]
fn one_differing_byte_is_found_and_named() {
    let bytes = distinct_sectors(MIB);
    let served = Served::new(&bytes);
    let other = served.dir.path().join("other");
    std::fs::write(&other, &bytes).unwrap();
    change_byte(&other, 777_777);
    let error = whole_disk(&served.socket(), &other).unwrap_err();
    assert!(error.to_string().contains("byte 777777 is"), "{error}");
}

#[test]
fn a_disk_shorter_than_its_raw_file_is_refused() {
    let served = Served::new(&distinct_sectors(MIB));
    let longer = served.dir.path().join("longer");
    std::fs::write(&longer, distinct_sectors(2 * MIB)).unwrap();
    assert!(whole_disk(&served.socket(), &longer).is_err());
}

#[test]
fn a_disk_longer_than_its_raw_file_must_end_in_zeros() {
    let mut bytes = distinct_sectors(MIB);
    bytes.resize(2 * MIB, 0);
    let served = Served::new(&bytes);
    let shorter = served.dir.path().join("shorter");
    std::fs::write(&shorter, &bytes[..MIB]).unwrap();
    whole_disk(&served.socket(), &shorter).unwrap();
    std::fs::write(&shorter, &bytes[..MIB - 512]).unwrap();
    assert!(whole_disk(&served.socket(), &shorter).is_err());
}

#[test]
fn a_measurement_counts_reads_orders_its_percentiles_and_sees_the_server_work() {
    let served = Served::new(&distinct_sectors(4 * MIB));
    for completions in [Completions::Interrupt, Completions::Poll] {
        let plan = Plan {
            completions,
            ..served.plan()
        };
        let report = measure::run(&plan).unwrap();
        assert!(report.requests > 0);
        assert_eq!(report.errors, 0);
        assert!(report.p50_us > 0.0);
        assert!(report.p50_us <= report.p99_us);
        assert!(report.p99_us <= report.p999_us);
        assert!(report.server_cpu_s.unwrap() > 0.0);
    }
}

#[test]
fn a_measurement_that_compares_stops_at_a_wrong_byte() {
    let served = Served::new(&distinct_sectors(64 << 10));
    let other = served.dir.path().join("other");
    std::fs::write(&other, distinct_sectors(64 << 10)).unwrap();
    change_byte(&other, 4096);
    let plan = Plan {
        action: Action::Read {
            compare: Some(other),
        },
        ..served.plan()
    };
    let error = measure::run(&plan).unwrap_err();
    assert!(error.to_string().contains("byte 4096 is"), "{error}");
}

#[test]
fn reads_that_the_server_refuses_are_counted_as_errors() {
    let served = Served::new(&distinct_sectors(MIB));
    let mut disk = served.connect(1);
    let beyond = Span {
        offset: 2 << 20,
        len: 4096,
    };
    disk.submit_read(0, beyond).unwrap();
    let mut finished = Vec::new();
    disk.wait(&mut finished).unwrap();
    assert_eq!(finished.len(), 1);
    assert!(finished[0].status < 0);
}

#[test]
fn a_slot_in_flight_can_neither_be_read_nor_used_again() {
    let served = Served::new(&distinct_sectors(MIB));
    let mut disk = served.connect(2);
    let read = Span {
        offset: 0,
        len: 512,
    };
    disk.submit_read(1, read).unwrap();
    assert!(disk.copy_from_slot(1, &mut [0; 512]).is_err());
    assert!(disk.fill_slot(1, 0).is_err());
    assert!(disk.submit_read(1, read).is_err());
    assert!(disk.submit_read(2, read).is_err());
    let mut finished = Vec::new();
    disk.wait(&mut finished).unwrap();
    disk.copy_from_slot(1, &mut [0; 512]).unwrap();
}

#[test]
fn a_socket_nobody_listens_at_is_an_error_that_names_it() {
    let missing = Path::new("/nonexistent/socket");
    let error = Disk::connect(missing, setup(1)).unwrap_err();
    assert!(
        error.to_string().contains("/nonexistent/socket"),
        "{error:#}"
    );
}

#[test]
fn after_a_load_of_writes_and_flushes_every_place_holds_the_last_write() {
    let served = Served::new(&distinct_sectors(4 * MIB));
    for completions in [Completions::Interrupt, Completions::Poll] {
        let plan = Plan {
            completions,
            span_bytes: Some(3 << 20),
            action: Action::Write {
                flush_every: Some(10),
                read_back: true,
            },
            ..served.plan()
        };
        let report = measure::run(&plan).unwrap();
        assert_eq!(report.errors, 0);
        assert!(report.requests > 0);
        assert!(report.flushes > 0);
        assert!(report.flushes <= report.requests / 10 + 8, "{report:?}");
        assert!((1..=768).contains(&report.read_back.unwrap()), "{report:?}");
    }
    let beyond = &std::fs::read(served.raw()).unwrap()[3 * MIB..];
    assert_eq!(beyond, &distinct_sectors(4 * MIB)[3 * MIB..]);
}

/// Writes all 16 blocks of a disk of 64 KiB.
fn write_all(disk: &mut Disk) -> Writes {
    let mut writes = Writes::new(4096, 64 << 10, 1, None).unwrap();
    writes.fill_slots(disk).unwrap();
    let mut pattern = Pattern::new(Mode::Seq, 4096, 64 << 10, 0).unwrap();
    let mut finished = Vec::new();
    for _ in 0..16 {
        let span = writes.prepare(disk, 0, &mut pattern).unwrap();
        disk.submit_write(0, span).unwrap();
        disk.wait(&mut finished).unwrap();
        writes
            .finished(span, finished.pop().unwrap().status == 0)
            .unwrap();
    }
    writes
}

#[test]
fn a_written_sector_that_is_lost_misplaced_or_damaged_is_found_and_named() {
    let served = Served::new(&distinct_sectors(64 << 10));
    let mut disk = served.connect(1);
    let writes = write_all(&mut disk);
    assert_eq!(writes.read_back(&mut disk).unwrap(), 16);
    let written = std::fs::read(served.raw()).unwrap();
    let verdict_on = |bytes: &[u8], disk: &mut Disk| {
        std::fs::write(served.raw(), bytes).unwrap();
        writes.read_back(disk).unwrap_err().to_string()
    };

    let mut lost = written.clone();
    lost[9 * 512..10 * 512].fill(0);
    let error = verdict_on(&lost, &mut disk);
    assert!(
        error.contains("byte 4608 should be of write 1 and is zeros"),
        "{error}"
    );

    let mut misplaced = written.clone();
    misplaced.copy_within(8192..8704, 512);
    let error = verdict_on(&misplaced, &mut disk);
    assert!(error.contains("is of write 2 at byte 8192"), "{error}");

    let mut damaged = written;
    damaged[40_000] ^= 1;
    let error = verdict_on(&damaged, &mut disk);
    assert!(
        error.contains("byte 39936 of write 9 is damaged"),
        "{error}"
    );
}

#[test]
fn a_load_of_more_writes_at_a_time_than_the_disk_has_room_for_is_refused() {
    assert!(Writes::new(4096, 64 << 10, 9, None).is_err());
    assert!(Writes::new(4096, 64 << 10, 8, Some(0)).is_err());
    assert!(Writes::new(4096, 64 << 10, 8, Some(1)).is_ok());
}

#[test]
fn as_many_sequential_writes_as_the_disk_has_blocks_fill_it() {
    let served = Served::new(&distinct_sectors(4 * MIB));
    let plan = Plan {
        mode: Mode::Seq,
        window: Duration::from_secs(60),
        requests: Some(1024),
        action: Action::Write {
            flush_every: None,
            read_back: true,
        },
        ..served.plan()
    };
    let report = measure::run(&plan).unwrap();
    assert!((1024..1040).contains(&report.requests), "{report:?}");
    assert_eq!(report.read_back, Some(1024));
}
