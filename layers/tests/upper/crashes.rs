//! What survives a killed process and a power cut, and what a failed operation may not lose.
//!
//! Every change that reaches the files of a layer is recorded. For every prefix of the record the
//! files are rebuilt as a kill would leave them, and as power cuts would: of what was not flushed
//! any part may be missing, in any order and torn at sectors. Each time the layer must open and
//! hold, sector by sector, a version that docs/durability.md allows.

use layers::io::MemoryFile;
use layers::lsmt::upper::UpperKind;
use layers::lsmt::{Layer, LayerBuilder, LayerOptions, Upper};
use layers::{ErrorKind, Image};

use crate::history::{History, Random, SECTORS, Step, assert_allowed, below_bytes, steps};
use crate::recorded::{Change, Content, Disk, Fault, Op};
use crate::support::{KINDS, Pair, scratch};

const DISK_BYTES: u64 = SECTORS as u64 * 512;

/// Workloads of each kind, and power cuts of each prefix.
const SEEDS: u64 = 4;
const CUTS: u64 = 6;

fn below() -> Vec<Layer> {
    let options = LayerOptions {
        virtual_size_bytes: DISK_BYTES,
        ..LayerOptions::default()
    };
    let mut builder = LayerBuilder::new(Vec::new(), options).unwrap();
    for sector in (0..SECTORS).filter(|sector| sector / 8 % 3 != 0) {
        builder.append(sector as u64, &below_bytes(sector)).unwrap();
    }
    let (bytes, _) = builder.finish().unwrap();
    vec![Layer::open(Box::new(MemoryFile::new("below", bytes))).unwrap()]
}

/// The two files of a new layer, as they are made on a real file system.
fn new_files(kind: UpperKind) -> Vec<Content> {
    let dir = scratch();
    let pair = Pair::create(dir.path(), "x", kind, DISK_BYTES);
    let (mut data, index) = (Content::default(), std::fs::read(&pair.index).unwrap());
    let bytes = std::fs::read(&pair.data).unwrap();
    data.write(0, &bytes[..4096]);
    data.apply(&Change::SetSize(bytes.len()));
    vec![data, Content::new(&index)]
}

fn open(disk: &Disk) -> layers::Result<Image> {
    Image::with_upper(below(), Upper::from_files(disk.file(0), disk.file(1))?)
}

/// A guest's work on a new layer: what it did, and what reached the files.
fn work(kind: UpperKind, seed: u64) -> (History, Vec<Op>) {
    let disk = Disk::new(new_files(kind));
    let image = open(&disk).unwrap();
    let mut history = History::default();
    for step in steps(seed, 30) {
        history.step(&image, step, || disk.ops_done()).unwrap();
    }
    let ops = disk.ops();
    drop(image);
    (history, ops)
}

/// Opens the files, compares, opens them again, and writes on. Returns what the open changed.
fn assert_recovers(
    contents: Vec<Content>,
    allowed: &[Vec<crate::history::Version>],
    what: &str,
) -> Vec<Op> {
    let disk = Disk::new(contents);
    let image = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_allowed(&image, allowed, what);
    let mut first = vec![0; SECTORS * 512];
    image.read_exact_at(0, &mut first).unwrap();
    let mended = disk.ops();
    drop(image);
    let image = open(&disk).unwrap_or_else(|error| panic!("{what}, once more: {error}"));
    let mut second = vec![0; SECTORS * 512];
    image.read_exact_at(0, &mut second).unwrap();
    assert!(
        first == second,
        "{what}: reads the same after the next open"
    );
    image.write_at(0, &[7; 512]).unwrap();
    image.flush().unwrap();
    image.read_exact_at(0, &mut second[..512]).unwrap();
    assert!(second[..512].iter().all(|byte| *byte == 7), "{what}");
    mended
}

#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_acknowledged() {
    for kind in KINDS {
        for seed in 0..SEEDS {
            let (history, ops) = work(kind, seed);
            let mut contents = new_files(kind);
            for done in 0..=ops.len() {
                let what = format!("{kind:?}, seed {seed}, killed after {done} operations");
                let allowed = history.allowed_after_kill(done);
                assert_recovers(contents.clone(), &allowed, &what);
                let Some(Op { file, change }) = ops.get(done) else {
                    break;
                };
                if let Change::Write { offset, data } = change {
                    // Killed in the middle of it.
                    let mut torn = contents.clone();
                    torn[*file].write_cut_short(*offset, data);
                    assert_recovers(torn, &allowed, &format!("{what} and a half"));
                }
                contents[*file].apply(change);
            }
        }
    }
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_flushed() {
    for kind in KINDS {
        for seed in 0..SEEDS {
            let (history, ops) = work(kind, seed);
            let mut random = Random(seed);
            for done in 0..=ops.len() {
                let allowed = history.allowed_after_power_cut(done);
                for cut in 0..CUTS {
                    let what = format!("{kind:?}, seed {seed}, power cut {cut} after {done}");
                    let left =
                        after_power_cut(new_files(kind), kind, &ops[..done], cut, &mut random);
                    let mended = assert_recovers(left.clone(), &allowed, &what);
                    // The power goes again while the layer is opened.
                    for at in 1..=mended.len() {
                        let what = format!("{what}, and after {at} operations of the open");
                        let mended = &mended[..at];
                        let left = left.clone();
                        let again = after_power_cut(left, kind, mended, CUTS, &mut random);
                        assert_recovers(again, &allowed, &what);
                    }
                }
            }
        }
    }
}

/// What may be on the device: all that was flushed, and of the rest nothing (cut 0), only the
/// index (1), only the data (2), or any part.
fn after_power_cut(
    mut left: Vec<Content>,
    kind: UpperKind,
    ops: &[Op],
    cut: u64,
    random: &mut Random,
) -> Vec<Content> {
    for (file, content) in left.iter_mut().enumerate() {
        let own: Vec<_> = ops.iter().filter(|op| op.file == file).collect();
        let flushed = own
            .iter()
            .rposition(|op| matches!(op.change, Change::Flush))
            .map_or(0, |at| at + 1);
        let (durable, volatile) = own.split_at(flushed);
        for op in durable {
            content.apply(&op.change);
        }
        let volatile: Vec<_> = volatile.iter().map(|op| &op.change).collect();
        *content =
            content.after_power_cut(
                &volatile,
                kind == UpperKind::AppendOnly,
                |states| match cut {
                    0 => 0,
                    1 if file == 1 => states - 1,
                    2 if file == 0 => states - 1,
                    1 | 2 => 0,
                    _ => random.below(states),
                },
            );
    }
    left
}

#[test]
fn no_failed_operation_loses_what_was_acknowledged_and_the_layer_goes_on() {
    for kind in KINDS {
        for fault in [Fault::NoSpace, Fault::IoError, Fault::ShortWrite] {
            for seed in 0..SEEDS {
                let mut nth = 0;
                while fail_one(kind, fault, seed, nth) {
                    nth += 1;
                }
                assert!(nth > 20, "{kind:?}: {nth} operations could fail");
            }
        }
    }
}

/// Fails operation `nth` of a workload; false when there are not so many.
fn fail_one(kind: UpperKind, fault: Fault, seed: u64, nth: usize) -> bool {
    let what = format!("{kind:?}, {fault:?} of operation {nth}, seed {seed}");
    let disk = Disk::new(new_files(kind));
    let image = open(&disk).unwrap();
    let mut history = History::default();
    disk.fail(nth, fault);
    let mut failures = 0;
    let mut flushes_fail = false;
    for step in steps(seed, 30) {
        let result = history.step(&image, step, || disk.ops_done());
        if let Err(error) = result {
            failures += 1;
            assert!(
                matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Io),
                "{what}: {error}"
            );
            // One operation fails once; only a lost flush stays lost.
            let is_flush = matches!(step, Step::Flush);
            assert!(failures == 1 || flushes_fail && is_flush, "{what}: {error}");
            flushes_fail = is_flush;
        }
    }
    let ops = disk.ops_done();
    let allowed = history.allowed_after_kill(ops);
    assert_allowed(&image, &allowed, &what);
    let failed = disk.failed();
    // Space that cannot be given back is nobody's loss.
    let is_harmless = |op: &Op| {
        matches!(
            (kind, &op.change),
            (UpperKind::AppendOnly, Change::PunchHole(_))
        )
    };
    let was_told = failures > 0 || failed.as_ref().is_none_or(is_harmless);
    assert!(was_told, "{what}: nobody was told of {failed:?}");
    let (contents, done) = (disk.contents(), disk.ops());
    drop(image);
    assert_recovers(contents, &allowed, &what);
    let allowed = history.allowed_after_power_cut(ops);
    let mut random = Random(nth as u64);
    for cut in 0..CUTS {
        let left = after_power_cut(new_files(kind), kind, &done, cut, &mut random);
        assert_recovers(left, &allowed, &format!("{what}, then power cut {cut}"));
    }
    failed.is_some()
}

/// The disk grows, then is sealed, and the power goes at any moment meanwhile.
#[test]
fn a_power_cut_while_a_layer_grows_or_is_sealed_leaves_it_writable_or_sealed() {
    for kind in KINDS {
        let disk = Disk::new(new_files(kind));
        let upper = Upper::from_files(disk.file(0), disk.file(1)).unwrap();
        let image = Image::with_upper(below(), upper).unwrap();
        let mut history = History::default();
        for step in steps(1, 20) {
            history.step(&image, step, || disk.ops_done()).unwrap();
        }
        image.flush().unwrap();
        drop(image);
        let before = disk.contents();
        let began = disk.ops_done();
        let upper = Upper::from_files(disk.file(0), disk.file(1)).unwrap();
        upper.grow(DISK_BYTES * 2).unwrap();
        let _end = upper.seal().unwrap();
        drop(upper);
        let ops = disk.ops().split_off(began);
        let allowed = history.allowed_after_kill(began);
        let mut random = Random(0);
        for done in 0..=ops.len() {
            for cut in 0..CUTS {
                let what = format!("{kind:?}, power cut {cut} after {done} operations");
                let left = after_power_cut(before.clone(), kind, &ops[..done], cut, &mut random);
                let disk = Disk::new(left);
                let image = match Layer::open(disk.file(0)) {
                    Ok(sealed) => {
                        let mut layers = below();
                        layers.push(sealed);
                        Image::from_layers(layers, "").unwrap()
                    }
                    Err(_) => open(&disk).unwrap_or_else(|error| panic!("{what}: {error}")),
                };
                assert_allowed(&image, &allowed, &what);
                let size = image.virtual_size();
                assert!(
                    size == DISK_BYTES || size == DISK_BYTES * 2,
                    "{what}: {size} bytes"
                );
            }
        }
    }
}

/// Every operation of a seal fails once: the layer stays writable, or is sealed.
#[test]
fn a_seal_that_fails_leaves_the_layer_writable() {
    for kind in KINDS {
        for fault in [Fault::NoSpace, Fault::IoError, Fault::ShortWrite] {
            let mut nth = 0;
            loop {
                let disk = Disk::new(new_files(kind));
                let upper = Upper::from_files(disk.file(0), disk.file(1)).unwrap();
                let image = Image::with_upper(below(), upper).unwrap();
                let mut history = History::default();
                for step in steps(2, 20) {
                    history.step(&image, step, || disk.ops_done()).unwrap();
                }
                image.flush().unwrap();
                drop(image);
                let upper = Upper::from_files(disk.file(0), disk.file(1)).unwrap();
                disk.fail(nth, fault);
                let sealed = upper.seal();
                drop(upper);
                if sealed.is_ok() {
                    break;
                }
                let what = format!("{kind:?}, {fault:?} of operation {nth}");
                let allowed = history.allowed_after_kill(disk.ops_done());
                assert_recovers(disk.contents(), &allowed, &what);
                nth += 1;
            }
            assert!(nth > 2, "{kind:?}: {nth} operations could fail");
        }
    }
}
