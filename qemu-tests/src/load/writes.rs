//! Writes whose bytes say what they are, and the proof that each place holds the last of them.
//!
//! measure -> **writes** -> disk
//!
//! Every sector of a write starts with a stamp: block, number of the write, sector inside it. The rest
//! is the same noise in all of them. So a misplaced, lost, torn or stale sector is seen.
//!
//! Invariants
//! - no two writes of the same block are in flight: the disk may do those in any order.
//! - a block whose write failed may hold the old or the new bytes; it is not looked at any more.

use anyhow::{Context, Result, bail, ensure};

use super::disk::{Disk, Finished, Span};
use super::pattern::{Pattern, Random};

const SECTOR: usize = 512;
const STAMP: usize = 24;

/// The state of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    NeverWritten,
    /// By the write of that number.
    Written(u64),
    InFlight(u64),
    Unknown,
}

/// See the module documentation.
#[derive(Debug)]
pub struct Writes {
    len: usize,
    noise: Vec<u8>,
    blocks: Vec<Block>,
    count: u64,
    flush_every: Option<u64>,
    flushes: u64,
}

impl Writes {
    /// Writes of `len` bytes to a disk of `capacity` bytes, at most `depth` at a time; with a flush
    /// after each `flush_every` of them.
    ///
    /// # Errors
    /// `len` is no multiple of 512, or the disk is too small for `depth` of them.
    pub fn new(len: usize, capacity: u64, depth: usize, flush_every: Option<u64>) -> Result<Self> {
        ensure!(
            len > 0 && len.is_multiple_of(SECTOR),
            "a write is a multiple of {SECTOR} bytes long, not {len}"
        );
        let blocks = usize::try_from(capacity)? / len;
        ensure!(
            blocks >= 2 * depth,
            "{capacity} bytes are too few for {depth} writes of {len} at a time"
        );
        ensure!(flush_every != Some(0), "a flush after every 0 writes");
        let mut random = Random::new(1);
        let noise = (0..len).map(|_| u8::try_from(random.below(256)).unwrap_or(0));
        Ok(Self {
            len,
            noise: noise.collect(),
            blocks: vec![Block::NeverWritten; blocks],
            count: 0,
            flush_every,
            flushes: 0,
        })
    }

    /// Fills all idle slots with the noise; later writes change only the stamps.
    ///
    /// # Errors
    /// A slot is in flight.
    pub fn fill_slots(&self, disk: &Disk) -> Result<()> {
        (0..disk.slots()).try_for_each(|slot| disk.copy_to_slot(slot, 0, &self.noise))
    }

    /// True when it is time for a flush instead of a write; the caller then sends it.
    pub fn flush_is_due(&mut self) -> bool {
        let due = self
            .flush_every
            .is_some_and(|every| self.count / every > self.flushes);
        self.flushes += u64::from(due);
        due
    }

    /// Stamps `slot` for the next write of a block that is not being written.
    ///
    /// # Errors
    /// The slot is in flight.
    pub fn prepare(&mut self, disk: &Disk, slot: usize, pattern: &mut Pattern) -> Result<Span> {
        let number = self.count;
        loop {
            let span = pattern.next_span();
            match self.block_mut(span)? {
                Block::InFlight(_) => continue,
                block => *block = Block::InFlight(number),
            }
            self.count += 1;
            for sector in 0..self.len / SECTOR {
                let at = sector * SECTOR;
                disk.copy_to_slot(slot, at, &stamp(span.offset + at as u64, number))?;
            }
            return Ok(span);
        }
    }

    /// Takes note of the end of the write of `span`.
    ///
    /// # Errors
    /// There was none.
    pub fn finished(&mut self, span: Span, good: bool) -> Result<()> {
        let block = self.block_mut(span)?;
        *block = match *block {
            Block::InFlight(number) if good => Block::Written(number),
            Block::InFlight(_) => Block::Unknown,
            _ => bail!("a write of {span:?} ended that nobody started"),
        };
        Ok(())
    }

    fn block_mut(&mut self, span: Span) -> Result<&mut Block> {
        let at = usize::try_from(span.offset)? / self.len;
        self.blocks.get_mut(at).context("a write beyond the disk")
    }

    /// Reads every block that was written, and compares. Returns how many there were.
    ///
    /// # Errors
    /// The first sector that holds something else; a read that fails.
    pub fn read_back(&self, disk: &mut Disk) -> Result<u64> {
        let written = self.blocks.iter().zip((0..).step_by(self.len));
        let mut rest = written.filter_map(|(block, offset)| match block {
            Block::Written(number) => Some((offset, *number)),
            _ => None,
        });
        let mut pending = vec![None; disk.slots()];
        let mut idle: Vec<usize> = (0..disk.slots()).collect();
        let mut finished: Vec<Finished> = Vec::new();
        let mut compared = 0;
        loop {
            while let Some(slot) = idle.pop() {
                let Some((offset, number)) = rest.next() else {
                    break;
                };
                disk.fill_slot(slot, 0)?;
                let span = Span {
                    offset,
                    len: self.len,
                };
                disk.submit_read(slot, span)?;
                *pending.get_mut(slot).context("no such slot")? = Some((span, number));
            }
            if pending.iter().all(Option::is_none) {
                return Ok(compared);
            }
            disk.wait(&mut finished)?;
            for done in finished.drain(..) {
                let request = pending.get_mut(done.slot).and_then(Option::take);
                let (span, number) = request.context("completion without a request")?;
                ensure!(done.status == 0, "read of {span:?}: error {}", done.status);
                self.compare(disk, done.slot, span, number)?;
                compared += 1;
                idle.push(done.slot);
            }
        }
    }

    fn compare(&self, disk: &Disk, slot: usize, span: Span, number: u64) -> Result<()> {
        let mut found = vec![0; self.len];
        disk.copy_from_slot(slot, &mut found)?;
        let sectors = found.chunks(SECTOR).zip(self.noise.chunks(SECTOR));
        for ((sector, noise), at) in sectors.zip((span.offset..).step_by(SECTOR)) {
            let (found_stamp, rest) = sector.split_at_checked(STAMP).context("a short sector")?;
            ensure!(
                found_stamp == stamp(at, number),
                "sector at byte {at} should be of write {number} and is {}",
                describe(found_stamp)
            );
            ensure!(
                noise.get(STAMP..) == Some(rest),
                "sector at byte {at} of write {number} is damaged behind its stamp"
            );
        }
        Ok(())
    }
}

/// What the sector at byte `offset` starts with after write `number`.
fn stamp(offset: u64, number: u64) -> [u8; STAMP] {
    let mut stamp = *b"obd-load................";
    for (place, byte) in stamp
        .iter_mut()
        .skip(8)
        .zip(offset.to_le_bytes().into_iter().chain(number.to_le_bytes()))
    {
        *place = byte;
    }
    stamp
}

fn describe(stamp: &[u8]) -> String {
    let word = |at: usize| {
        let bytes = stamp.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes))
    };
    match (stamp.starts_with(b"obd-load"), word(8), word(16)) {
        (true, Some(offset), Some(number)) => format!("of write {number} at byte {offset}"),
        _ if stamp.iter().all(|byte| *byte == 0) => "zeros".to_owned(),
        _ => format!("something else: {stamp:02x?}"),
    }
}
