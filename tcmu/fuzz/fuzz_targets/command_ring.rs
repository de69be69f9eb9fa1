//! Any bytes as the memory that is shared with the kernel, which changes while it is served.
//!
//! Byte 0: bit 0, answers in any order; bit 1, the mailbox is the input's too. Byte 1: what is
//! answered, and when. Bytes 2 and 3: `cmd_head` in units of 8. Then the mailbox, if it is the
//! input's, the ring, and the data area.
#![no_main]

use std::collections::BTreeSet;
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tcmu::ring::{self, Command, DataRange, Region, SENSE_BYTES, Status, Taken};

const MAILBOX_BYTES: usize = 128;
const RING_BYTES: usize = 1024;
const DATA_BYTES: usize = 2048;
const ALL_BYTES: usize = MAILBOX_BYTES + RING_BYTES + DATA_BYTES;

const CMDR_OFF: usize = 4;
const CMDR_SIZE: usize = 8;
const CMD_HEAD: usize = 12;
const CMD_TAIL: usize = 64;

/// Entries taken from one input; a head that moves would have it last for ever.
const TAKEN_MAX: usize = 100;

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn put(region: &Region, offset: usize, bytes: &[u8]) {
    let len = bytes.len().min(region.len().saturating_sub(offset));
    let bytes = bytes.get(..len).unwrap_or_default();
    assert!(region.copy_in(DataRange { offset, len }, bytes).is_some());
}

/// Reads, writes and fills what belongs to the command.
fn touch(region: &Region, command: &Command, area: &std::ops::Range<usize>) {
    assert!(command.cdb_len > 0 && command.cdb_len <= ring::CDB_BYTES);
    for range in command.data.iter().chain(&command.bidi) {
        assert!(area.start <= range.offset && range.offset <= area.end);
        assert!(range.len <= area.end - range.offset);
        let mut bytes = vec![0; range.len];
        assert!(region.copy_out(*range, &mut bytes).is_some());
        assert!(region.copy_in(*range, &bytes).is_some());
        let dest = region.dest(*range).map(|mut dest| dest.copy_from(&bytes));
        assert_eq!(dest, Some(range.len));
    }
}

fn status(choice: u8) -> Status {
    match choice % 3 {
        0 => Status::Good,
        1 => Status::Busy,
        _ => Status::CheckCondition([choice; SENSE_BYTES]),
    }
}

fuzz_target!(|input: &[u8]| {
    let [options, choice, head_low, head_high, bytes @ ..] = input else {
        return;
    };
    let region = Arc::new(Region::of_memory(ALL_BYTES / 8));
    let is_own_mailbox = options & 2 != 0;
    if is_own_mailbox {
        put(&region, 0, bytes);
    } else {
        put(&region, MAILBOX_BYTES, bytes);
        region.store(0, 2 | u32::from(options & 1) << 16);
        region.store(CMDR_OFF, number(MAILBOX_BYTES));
        region.store(CMDR_SIZE, number(RING_BYTES));
        let head = u32::from(u16::from_le_bytes([*head_low, *head_high]));
        region.store(CMD_HEAD, head * 8 % number(RING_BYTES + 64));
    }
    let Ok((mut taker, completer)) = ring::open(Arc::clone(&region)) else {
        assert!(is_own_mailbox, "a good mailbox is refused");
        return;
    };
    // The mailbox may change now; where things are was decided.
    let size = |at| usize::try_from(region.load(at)).unwrap_or(0);
    let (start, len) = (size(CMDR_OFF), size(CMDR_SIZE));
    let area = start + len..ALL_BYTES;
    assert!(start >= MAILBOX_BYTES && area.start <= area.end && len > 0);

    let mut waiting = BTreeSet::new();
    let mut command = Command::default();
    for round in 0..TAKEN_MAX {
        let choice = choice
            .wrapping_mul(5)
            .wrapping_add(number(round).to_le_bytes()[0]);
        match taker.take(&mut command) {
            Ok(Taken::Command) => {
                touch(&region, &command, &area);
                assert!(waiting.insert(command.id), "a name that was there");
            }
            Ok(Taken::Malformed) => assert!(waiting.insert(command.id), "a name that was there"),
            Ok(Taken::TaskManagement) => {}
            Ok(Taken::Nothing) | Err(_) => break,
        }
        let picked = match choice & 4 {
            0 => waiting.first().copied(),
            _ => waiting.last().copied(),
        };
        if let Some(id) = picked.filter(|_| choice & 8 != 0) {
            waiting.remove(&id);
            assert!(completer.complete(id, status(choice)));
            assert!(!completer.complete(id, status(choice)), "answered twice");
        }
        // The kernel goes on, over what was taken and what was not.
        if choice & 16 != 0 {
            put(
                &region,
                start + usize::from(choice) * 8 % len,
                &[choice; 24],
            );
        }
        if choice & 32 != 0 {
            region.store(CMD_HEAD, u32::from(choice) * 8 % number(len));
        }
    }
    for id in 0..=u16::MAX {
        assert_eq!(completer.complete(id, Status::Good), waiting.contains(&id));
    }
    let tail = usize::try_from(region.load(CMD_TAIL)).unwrap_or(usize::MAX);
    assert!(tail < len && tail.is_multiple_of(8));
});
