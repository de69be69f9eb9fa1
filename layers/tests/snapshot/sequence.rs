//! What writers write, so that a disk tells how far each of them had come.
//!
//! Each writer has slots of its own, which it fills one after the other, over and over, with the number
//! of the operation; some operations are discards.

use std::sync::atomic::{AtomicU64, Ordering};

use layers::Image;

/// Slots of a writer: no divisor of anything.
const SLOTS: u64 = 61;

/// Three sectors: neighbours share blocks of the file system.
const SLOT_LEN: usize = 1536;
const SLOT_BYTES: u64 = SLOT_LEN as u64;

pub(crate) const WRITERS: usize = 3;

/// Enough for all writers.
pub(crate) const BYTES: u64 = 1 << 20;

/// How far each writer has come.
pub(crate) type Progress = [AtomicU64; WRITERS];

pub(crate) fn now(progress: &Progress) -> [u64; WRITERS] {
    progress.each_ref().map(|it| it.load(Ordering::SeqCst))
}

fn is_discard(number: u64) -> bool {
    number % 7 == 3
}

fn place(writer: usize, number: u64) -> u64 {
    (writer as u64 * SLOTS + number % SLOTS) * SLOT_BYTES
}

fn content(writer: usize, number: u64) -> Vec<u8> {
    let word = (writer as u64 + 1) << 56 | number;
    let words = SLOT_BYTES / 8;
    (0..words).flat_map(|_| word.to_le_bytes()).collect()
}

/// Does operation `number` of a writer.
pub(crate) fn write(image: &Image, writer: usize, number: u64) {
    let offset = place(writer, number);
    match is_discard(number) {
        true => image.write_zeroes_at(offset, SLOT_BYTES).unwrap(),
        false => image.write_at(offset, &content(writer, number)).unwrap(),
    }
    if number % 101 == 5 {
        image.flush().unwrap();
    }
}

/// The slots of one writer on a disk.
struct Slots {
    writer: usize,
    bytes: Vec<Vec<u8>>,
}

impl Slots {
    fn read(image: &Image, writer: usize) -> Self {
        let read = |slot| {
            let mut bytes = vec![0; SLOT_LEN];
            let offset = place(writer, slot);
            image.read_exact_at(offset, &mut bytes).unwrap();
            bytes
        };
        let bytes = (0..SLOTS).map(read).collect();
        Self { writer, bytes }
    }

    /// Is this part of a slot as operation `number` has left it? 0: as the disk was made.
    fn is_from(&self, number: u64, bytes: &[u8]) -> bool {
        match number {
            // A lower has the byte 7.
            0 => bytes.iter().all(|byte| *byte == 7 || *byte == 0),
            _ if is_discard(number) => bytes.iter().all(|byte| *byte == 0),
            _ => *bytes == content(self.writer, number)[..bytes.len()],
        }
    }

    /// Are all operations up to `last` there, and no other, as far as slots other than `except` tell?
    fn is_after(&self, last: u64, except: Option<u64>) -> bool {
        let mut slots = (0..SLOTS).zip(&self.bytes);
        slots.all(|(slot, bytes)| {
            let age = (last % SLOTS + SLOTS - slot) % SLOTS;
            Some(slot) == except || self.is_from(last.saturating_sub(age), bytes)
        })
    }

    fn newest(&self) -> u64 {
        let words = self.bytes.iter().map(|bytes| {
            let word = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            word & ((1 << 56) - 1)
        });
        words.max().unwrap_or_default()
    }
}

/// How far a writer had come on this disk, which is no less than `least` and no more than `most`: all
/// operations up to that one are there, and no other.
pub(crate) fn found(image: &Image, writer: usize, least: u64, most: u64) -> u64 {
    let slots = Slots::read(image, writer);
    let fits = (least..=most).find(|last| slots.is_after(*last, None));
    fits.unwrap_or_else(|| {
        let newest = slots.newest();
        panic!(
            "writer {writer}: not as after any of {least}..={most}; the newest there is {newest}"
        )
    })
}

/// As [`found`] after a kill: of the operation behind `acknowledged` each sector may be there or not.
pub(crate) fn found_after_kill(image: &Image, writer: usize, acknowledged: u64) -> u64 {
    let slots = Slots::read(image, writer);
    let next = acknowledged + 1;
    let is_torn = || {
        let mut sectors = slots.bytes[(next % SLOTS) as usize].chunks(512);
        let old = next.saturating_sub(SLOTS);
        slots.is_after(acknowledged, Some(next % SLOTS))
            && sectors.all(|sector| slots.is_from(next, sector) || slots.is_from(old, sector))
    };
    match is_torn() {
        true => acknowledged,
        false => found(image, writer, next, next),
    }
}
