//! A daemon that is killed with writes in flight loses nothing that it has acknowledged.
//!
//! It is killed from a thread of its own, at a moment that has nothing to do with what guest and
//! daemon are doing: while they write, while the guest fills its ring, while the daemon repeats what
//! the one before it has left.
//!
//! `OBD_KILL_ROUNDS` says how often for each kind of layer, 200 unless set; `scripts/kill-rounds`
//! sets it.

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use layers::lsmt::upper::UpperKind;

use crate::frontend::{FLUSH, SLOT_BYTES, SLOTS, T_DISCARD, T_FLUSH, T_OUT, Vmm};
use crate::process::{Daemon, writable_image};

const ROUNDS_DEFAULT: u64 = 200;
const DISK_BYTES: u64 = 4 << 20;
const SECTORS: usize = 8192;
const SECTORS_MAX: usize = 24;
/// A daemon lives at most 2 to the power of one of these, in microseconds.
const LIFE_EXPONENTS: Range<usize> = 5..16;

/// What a sector may hold: the number of the write, 0 for zeros.
#[derive(Clone, Copy, Default)]
struct Sector {
    acknowledged: u64,
    in_flight: Option<u64>,
}

/// What the guest has in a slot.
#[derive(Clone, Copy)]
struct Request {
    first: usize,
    count: usize,
    version: u64,
}

/// A guest that writes as fast as it can, and knows what must be on its disk.
struct Writer {
    vmm: Vmm,
    random: Random,
    sectors: Vec<Sector>,
    slots: [Option<Request>; SLOTS as usize],
    free: VecDeque<u16>,
    /// Position of the next used entry to look at.
    used: u16,
    version: u64,
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

fn content(sector: usize, version: u64) -> [u8; 512] {
    let mut bytes = [0; 512];
    if version > 0 {
        for (number, part) in bytes.chunks_exact_mut(8).enumerate() {
            let value = version << 24 | (sector as u64) << 8 | number as u64;
            part.copy_from_slice(&value.to_le_bytes());
        }
    }
    bytes
}

impl Writer {
    fn new(socket: &Path, seed: u64) -> Self {
        let mut vmm = Vmm::connect(socket);
        vmm.negotiate_also(FLUSH);
        vmm.share_memory();
        vmm.start_ring(0);
        Self {
            vmm,
            random: Random(seed),
            sectors: vec![Sector::default(); SECTORS],
            slots: [None; SLOTS as usize],
            free: (0..SLOTS).collect(),
            used: 0,
            version: 0,
        }
    }

    /// Goes on with another daemon as a VM that has survived: its VMM makes the daemon repeat
    /// everything that has not been used.
    fn reconnect(&mut self, socket: &Path) {
        self.vmm.reconnect(socket, FLUSH);
        self.vmm.resume_ring(self.vmm.used_idx());
    }

    /// Goes on with another daemon as a new VM.
    fn restart(&mut self, socket: &Path) {
        self.vmm.reconnect(socket, FLUSH);
        self.vmm.start_ring(0);
        self.slots = [None; SLOTS as usize];
        self.free = (0..SLOTS).collect();
        self.used = 0;
    }

    /// Puts requests into all free slots.
    fn submit(&mut self) {
        for _ in 0..self.free.len() {
            let Some(slot) = self.free.pop_front() else {
                break;
            };
            if !self.submit_one(slot) {
                self.free.push_back(slot);
            }
        }
        self.vmm.kick();
    }

    /// False when it would meet a request in flight: no file system does that.
    fn submit_one(&mut self, slot: u16) -> bool {
        let count = self.random.below(SECTORS_MAX) + 1;
        let first = self.random.below(SECTORS - count);
        let kind = match self.random.below(32) {
            0 => T_FLUSH,
            1 | 2 => T_DISCARD,
            _ => T_OUT,
        };
        if kind == T_FLUSH {
            self.slots[usize::from(slot)] = Some(Request {
                first: 0,
                count: 0,
                version: 0,
            });
            self.vmm.add_with(slot, kind, 0, &[]);
            return true;
        }
        let range = first..first + count;
        let sectors = &mut self.sectors[range.clone()];
        if sectors.iter().any(|sector| sector.in_flight.is_some()) {
            return false;
        }
        self.version += u64::from(kind == T_OUT);
        let version = if kind == T_OUT { self.version } else { 0 };
        sectors
            .iter_mut()
            .for_each(|sector| sector.in_flight = Some(version));
        self.slots[usize::from(slot)] = Some(Request {
            first,
            count,
            version,
        });
        if kind == T_OUT {
            let bytes: Vec<u8> = range.flat_map(|sector| content(sector, version)).collect();
            self.vmm.add_with(slot, kind, first as u64, &bytes);
        } else {
            let count = u32::try_from(count).unwrap().to_le_bytes();
            let list = [&(first as u64).to_le_bytes()[..], &count, &[0; 4]].concat();
            self.vmm.add_with(slot, kind, 0, &list);
        }
        true
    }

    /// Takes note of everything the daemon has used; returns how much that was.
    fn collect(&mut self) -> usize {
        let used = self.vmm.used_idx();
        let count = used.wrapping_sub(self.used);
        while self.used != used {
            let (slot, status) = self.vmm.used(self.used);
            assert_eq!(status, 0, "a request failed");
            let request = self.slots[usize::from(slot)].take().expect("in flight");
            for sector in &mut self.sectors[request.first..][..request.count] {
                sector.acknowledged = request.version;
                sector.in_flight = None;
            }
            self.free.push_back(slot);
            self.used = self.used.wrapping_add(1);
        }
        usize::from(count)
    }

    /// Keeps all slots busy until `count` requests are acknowledged; returns with others in
    /// flight.
    fn write(&mut self, count: usize) {
        let mut done = 0;
        self.submit();
        while done < count {
            self.vmm.wait_for_call();
            done += self.collect();
            self.submit();
        }
    }

    /// Keeps all slots busy until the daemon is killed; returns how many requests were acknowledged.
    fn write_until(&mut self, killed: &AtomicBool) -> usize {
        let mut done = 0;
        while !killed.load(Ordering::Acquire) {
            self.submit();
            done += self.collect();
            std::thread::yield_now();
        }
        done
    }

    /// Waits for everything in flight.
    fn finish(&mut self) {
        self.vmm.wait_until_used();
        self.collect();
        assert!(self.slots.iter().all(Option::is_none));
    }

    /// Every sector of the disk is what it must be, or may be already. What is there counts as
    /// written from now on. Nothing may be in flight.
    fn check(&mut self, round: u64) {
        let len = usize::try_from(SLOT_BYTES).unwrap();
        for first in (0..SECTORS).step_by(len / 512) {
            let bytes = self.vmm.read(first as u64, u32::try_from(len).unwrap());
            self.used = self.used.wrapping_add(1);
            let (found, _) = bytes.as_chunks::<512>();
            for (number, found) in (first..).zip(found) {
                let sector = &mut self.sectors[number];
                let is = |version| *found == content(number, version);
                match sector.in_flight.take() {
                    Some(version) if is(version) => sector.acknowledged = version,
                    _ => assert!(
                        is(sector.acknowledged),
                        "round {round}: sector {number} is not write {}",
                        sector.acknowledged
                    ),
                }
            }
        }
    }
}

fn rounds() -> u64 {
    std::env::var("OBD_KILL_ROUNDS").map_or(ROUNDS_DEFAULT, |rounds| rounds.parse().unwrap())
}

fn kill_and_check(kind: UpperKind) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = writable_image(dir.path(), kind, Some(DISK_BYTES));
    let socket = dir.path().join("disk.sock");
    let mut daemon = Daemon::serve(&config, &socket);
    let mut writer = Writer::new(&socket, 0x9e37_79b9_7f4a_7c15);
    writer.write(1);
    let (mut acknowledged, mut cut_off) = (0, 0);
    for round in 0..rounds() {
        // Short lives are as frequent as long ones.
        let exponent = LIFE_EXPONENTS.start + writer.random.below(LIFE_EXPONENTS.len());
        let life_max = 1 << exponent;
        let life = Duration::from_micros(writer.random.below(life_max) as u64);
        acknowledged += write_and_kill(&mut writer, &mut daemon, life);
        // What it said last counts, too.
        acknowledged += writer.collect();
        cut_off += writer.slots.iter().flatten().count();
        daemon = Daemon::serve(&config, &socket);
        if writer.random.below(2) == 0 {
            writer.restart(&socket);
        } else {
            writer.reconnect(&socket);
        }
        // Else the next one is killed while it repeats what this one has left.
        if writer.random.below(4) > 0 {
            writer.finish();
            writer.check(round);
        }
    }
    writer.finish();
    writer.check(rounds());
    println!("{acknowledged} requests acknowledged, {cut_off} cut off");
    assert!(cut_off > 0);
}

/// Writes until the daemon has been killed, `life` from now; returns how many requests were
/// acknowledged.
fn write_and_kill(writer: &mut Writer, daemon: &mut Daemon, life: Duration) -> usize {
    let killed = AtomicBool::new(false);
    let start = Instant::now();
    let acknowledged = std::thread::scope(|scope| {
        scope.spawn(|| {
            // A sleep would be longer than most lives.
            while start.elapsed() < life {
                std::thread::yield_now();
            }
            daemon.kill();
            killed.store(true, Ordering::Release);
        });
        writer.write_until(&killed)
    });
    daemon.wait();
    acknowledged
}

#[test]
fn an_append_only_layer_keeps_what_was_acknowledged_before_the_daemon_was_killed() {
    kill_and_check(UpperKind::AppendOnly);
}

#[test]
fn a_sparse_layer_keeps_what_was_acknowledged_before_the_daemon_was_killed() {
    kill_and_check(UpperKind::Sparse);
}

#[test]
fn a_daemon_that_is_told_to_end_finishes_what_it_has_begun() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = writable_image(dir.path(), UpperKind::AppendOnly, Some(DISK_BYTES));
    let socket = dir.path().join("disk.sock");
    let mut daemon = Daemon::serve(&config, &socket);
    let mut writer = Writer::new(&socket, 0x2545_f491_4f6c_dd1d);
    for round in 0..5 {
        writer.write(100);
        daemon.signal("TERM");
        assert_eq!(daemon.wait().code(), Some(0));
        writer.collect();
        daemon = Daemon::serve(&config, &socket);
        writer.reconnect(&socket);
        writer.finish();
        writer.check(round);
    }
}
