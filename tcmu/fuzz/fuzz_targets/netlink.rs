//! Any datagram.
//!
//! Bytes 0 and 1: the family. The rest is the datagram.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcmu::netlink::events;

/// Header of a message, three attributes.
const EVENT_BYTES_MIN: usize = 20 + 4 + 8 + 8;

fuzz_target!(|input: &[u8]| {
    let Some((family, datagram)) = input.split_first_chunk() else {
        return;
    };
    let family = u16::from_le_bytes(*family);
    let found = events(datagram, family);
    assert!(found.len() <= datagram.len() / EVENT_BYTES_MIN);
    for event in &found {
        assert!(!event.device.contains('\0'));
        // What is no text has its bytes replaced by three.
        assert!(event.device.len() <= 3 * datagram.len());
    }
    // What is cut off at the end costs no event in front of it.
    let half = datagram.len() / 2;
    let front = events(datagram.get(..half).unwrap_or_default(), family);
    assert!(found.starts_with(&front));
});
