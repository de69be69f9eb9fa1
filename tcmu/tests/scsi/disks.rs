//! Disks and the shortest ways to ask them.

use tcmu::scsi::{Action, ByteRange, Disk, Place, Sense, decode};

/// Blocks of [`writable`] and [`read_only`].
pub(crate) const BLOCKS: u64 = 0x20_0000;

/// Most blocks of one transfer.
pub(crate) const TRANSFER_BLOCKS_MAX: u32 = 0x2000;

/// A disk of 1 GiB.
pub(crate) fn writable() -> Disk {
    Disk {
        blocks: BLOCKS,
        is_writable: true,
        serial: "9a3b-layer-7".to_owned(),
        description: "overlaybd//images/a.json;dev7".to_owned(),
        transfer_blocks_max: TRANSFER_BLOCKS_MAX,
    }
}

/// The same, not to be changed.
pub(crate) fn read_only() -> Disk {
    Disk {
        is_writable: false,
        ..writable()
    }
}

/// The data that a command brings back.
pub(crate) fn reply(cdb: &[u8], disk: &Disk) -> Vec<u8> {
    match decode(cdb, disk) {
        Ok(Action::Reply(reply)) => reply.bytes,
        other => panic!("{cdb:02x?}: {other:?}"),
    }
}

/// The sense data that a command fails with.
pub(crate) fn refusal(cdb: &[u8], disk: &Disk) -> Sense {
    match decode(cdb, disk) {
        Err(sense) => sense,
        other => panic!("{cdb:02x?}: {other:?}"),
    }
}

/// Asserts that a command fails with `code` (as in `05/24/00`), pointing at `byte` of itself.
#[track_caller]
pub(crate) fn assert_bad_field(cdb: &[u8], disk: &Disk, code: &str, byte: u16) {
    let sense = refusal(cdb, disk);
    assert_eq!(sense.to_string(), code, "{cdb:02x?}");
    let field = sense.field.expect("a field pointer");
    assert_eq!((field.place, field.byte), (Place::Cdb, byte), "{cdb:02x?}");
}

/// Blocks as bytes.
pub(crate) fn blocks(first: u64, count: u64) -> ByteRange {
    ByteRange {
        offset: first * 512,
        len: count * 512,
    }
}
