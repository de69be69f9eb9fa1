//! Any bytes as the memory of a guest, its ring included.
//!
//! Byte 0: bit 0 event index, bit 1 rings where requests may overwrite them, bit 2 a disk that is
//! written, bit 3 a driver that cannot flush, bit 4 a sparse layer. Byte 1: entries made
//! available in a second round. Then the rings (descriptor table, available ring, used ring), then
//! the rest of guest memory.
#![no_main]

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use layers::io::MemoryFile;
use layers::lsmt::upper::{self, CreateOptions, Upper, UpperKind};
use layers::lsmt::{HEADER_BYTES, Layer, LayerBuilder, LayerOptions, Uuid};
use layers::{Dest, Error, ErrorKind, Image, Progress, ReadAt, Result, Wait, WriteAt};
use vhost_blk::cache_mode::CacheMode;
use vhost_blk::disk::Disk;
use vhost_blk::guest_memory::{GuestMemory, SharedGuestMemory};
use vhost_blk::mailbox::Mailbox;
use vhost_blk::pool::Pool;
use vhost_blk::queue::SharedQueue;
use vhost_blk::ring::RingLayout;
use vhost_blk::worker::Worker;
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic};

const RING_SIZE: u16 = 16;
const RINGS_BYTES: usize = 0x400;
/// Inside the rings.
const AVAIL: u64 = 0x100;
const USED: u64 = 0x200;
/// An address that no input finds.
const RINGS_APART: u64 = 0x6b5a_4938_2000;
/// Two regions, so that there is a border to cross.
const REGION_BYTES: usize = 32 << 10;

/// Longest time to wait for requests in flight.
const DEADLINE: Duration = Duration::from_secs(5);

const DISK_BYTES: u64 = 1 << 20;

/// `VIRTIO_BLK_F_FLUSH`.
const FEATURE_FLUSH: u64 = 1 << 9;

/// A file of a layer with data beyond the end of the disk too. The data is good, waiting, bad, good ...
#[derive(Debug)]
struct PatchyFile(MemoryFile);

impl PatchyFile {
    const DATA_BYTES: usize = 2 << 20;

    fn open() -> Result<Layer> {
        let options = LayerOptions {
            virtual_size_bytes: DISK_BYTES,
            ..LayerOptions::default()
        };
        let mut builder = LayerBuilder::new(Vec::new(), options)?;
        builder.append(0, &vec![0; Self::DATA_BYTES])?;
        let (bytes, _) = builder.finish()?;
        Layer::open(Box::new(Self(MemoryFile::new("fuzz layer", bytes))))
    }
}

impl ReadAt for PatchyFile {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        let data_end = (HEADER_BYTES + Self::DATA_BYTES) as u64;
        if offset < data_end
            && let Some(disk_offset) = offset.checked_sub(HEADER_BYTES as u64)
        {
            let end = disk_offset + dest.len() as u64;
            assert!(end <= DISK_BYTES, "a read beyond the disk");
            match (disk_offset >> 17) % 3 {
                1 if wait == Wait::Never => return Ok(Progress::Pending),
                2 => return Err(Error::new(ErrorKind::Corrupt, "read", "bad on purpose")),
                _ => {}
            }
        }
        self.0.read_at(offset, dest, wait)
    }
}

/// A file of a writable layer, in memory. Data that starts with this byte does not fit.
const TOO_MUCH: u8 = 0xee;

#[derive(Debug)]
struct WritableFile {
    name: &'static str,
    bytes: RwLock<Vec<u8>>,
}

impl WritableFile {
    fn boxed(name: &'static str, bytes: &[u8]) -> Box<Self> {
        let bytes = RwLock::new(bytes.to_vec());
        Box::new(Self { name, bytes })
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Vec<u8>> {
        self.bytes.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(at: u64) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX)
}

impl ReadAt for WritableFile {
    fn size(&self) -> u64 {
        self.lock().len() as u64
    }

    fn name(&self) -> &str {
        self.name
    }

    fn read_at(&self, offset: u64, mut dest: Dest<'_>, _wait: Wait) -> Result<Progress> {
        let bytes = self.lock();
        match bytes.get(place(offset)..place(offset) + dest.len()) {
            Some(part) => dest.copy_from(part),
            None => return Err(Error::new(ErrorKind::OutOfRange, "read", "beyond the end")),
        };
        Ok(Progress::Done)
    }
}

impl WriteAt for WritableFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        if data.first() == Some(&TOO_MUCH) {
            return Err(Error::new(ErrorKind::NoSpace, "write", "full on purpose"));
        }
        let mut bytes = self.lock();
        let end = place(offset) + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(part) = bytes.get_mut(place(offset)..end) {
            part.copy_from_slice(data);
        }
        Ok(())
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.lock().resize(place(size), 0);
        Ok(())
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<()> {
        let mut bytes = self.lock();
        if let Some(part) = bytes.get_mut(place(range.start)..place(range.end)) {
            part.fill(0);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn next_data_extent(&self, _from: u64) -> Result<Option<Range<u64>>> {
        Ok(None)
    }
}

/// What the two files of a new layer hold, by kind.
static NEW_LAYERS: LazyLock<Option<[[Vec<u8>; 2]; 2]>> = LazyLock::new(|| {
    let new = |kind| {
        let name = |part| format!("obd-fuzz-{}-{kind:?}.{part}", std::process::id());
        let paths = ["data", "index"].map(|part| std::env::temp_dir().join(name(part)));
        let [data, index] = &paths;
        let options = CreateOptions {
            kind,
            virtual_size_bytes: DISK_BYTES,
            parent_uuid: Uuid::NIL,
        };
        upper::create(data, index, options).ok()?;
        let read = || Some([std::fs::read(data).ok()?, std::fs::read(index).ok()?]);
        let files = read();
        paths.iter().for_each(|path| {
            std::fs::remove_file(path).ok();
        });
        files
    };
    Some([new(UpperKind::AppendOnly)?, new(UpperKind::Sparse)?])
});

/// A disk of its own for every input: what one writes the next must not see.
fn writable_disk(is_sparse: bool) -> Option<Arc<Disk>> {
    let [append_only, sparse] = NEW_LAYERS.as_ref()?;
    let [data, index] = if is_sparse { sparse } else { append_only };
    let files = (
        WritableFile::boxed("data", data),
        WritableFile::boxed("index", index),
    );
    let upper = Upper::from_files(files.0, files.1).ok()?;
    let image = Image::with_upper(Vec::new(), upper).ok()?;
    Some(Arc::new(Disk::new(image, "fuzz disk".to_owned(), "fuzz")))
}

static POOL: LazyLock<Arc<Pool>> = LazyLock::new(|| Arc::new(Pool::new(2)));
static DISK: LazyLock<Option<Arc<Disk>>> = LazyLock::new(|| {
    let image = Image::from_layers(vec![PatchyFile::open().ok()?], "").ok()?;
    Some(Arc::new(Disk::new(image, "fuzz disk".to_owned(), "fuzz")))
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let [options, second_round, bytes @ ..] = input else {
        return;
    };
    let disk = match options & 4 {
        0 => DISK.clone(),
        _ => writable_disk(options & 16 != 0),
    };
    assert!(disk.is_some(), "the disk does not open");
    let Some(disk) = &disk else { return };
    let cache = Arc::new(CacheMode::new(Arc::default()));
    if options & 8 == 0 {
        cache.negotiate(FEATURE_FLUSH);
    }
    let rings_are_apart = options & 2 == 0;
    let rings = if rings_are_apart { RINGS_APART } else { 0 };
    let ranges = [
        (GuestAddress(0), REGION_BYTES),
        (GuestAddress(REGION_BYTES as u64), REGION_BYTES),
        (GuestAddress(RINGS_APART), RINGS_BYTES),
    ];
    let (Ok(memory), Ok(mailbox)) = (GuestMemory::from_ranges(&ranges), Mailbox::new()) else {
        return;
    };
    let (ring_bytes, rest) = bytes.split_at_checked(RINGS_BYTES).unwrap_or((bytes, &[]));
    let rest = rest.get(..2 * REGION_BYTES).unwrap_or(rest);
    memory.put(0, rest);
    memory.put(rings, ring_bytes);
    memory.store_u16(rings + USED + 2, 0);

    let queue = Arc::new(SharedQueue::new(Arc::clone(disk), 0, Arc::default()));
    queue.set_layout(RingLayout {
        size: RING_SIZE,
        desc: rings,
        avail: rings + AVAIL,
        used: rings + USED,
    });
    queue.set_event_idx(options & 1 == 1);
    queue.start();
    queue.set_enabled(true);
    let mailbox = Arc::new(mailbox);
    let mut worker = Worker::new(
        Arc::clone(disk),
        Arc::clone(&POOL),
        Arc::clone(&mailbox),
        cache,
    );
    let shared: SharedGuestMemory = GuestMemoryAtomic::new(memory.clone());
    let deadline = Instant::now() + DEADLINE;
    for more in [0, u16::from(*second_round)] {
        let avail_idx = memory.load_u16(rings + AVAIL + 2).wrapping_add(more);
        memory.store_u16(rings + AVAIL + 2, avail_idx);
        while {
            worker.run(std::slice::from_ref(&queue), &shared);
            !queue.lock().may_let_go()
        } {
            assert!(Instant::now() < deadline, "requests are never answered");
        }
    }
    let is_broken = queue.lock().is_broken();
    queue.stop(Duration::ZERO);
    if rings_are_apart {
        let (taken, used) = (queue.next_avail(), memory.load_u16(rings + USED + 2));
        let available = memory.load_u16(rings + AVAIL + 2);
        assert_eq!(taken, used, "taken and not used, or the reverse");
        assert!(taken <= 2 * RING_SIZE);
        assert!(is_broken || used == available, "requests are left");
        for slot in 0..u64::from(used.min(RING_SIZE)) {
            let head = memory.load_u16(rings + USED + 4 + 8 * slot);
            assert!(head < RING_SIZE, "used a chain that does not exist");
        }
    }
});

/// The index fields of the rings.
trait Fields {
    fn put(&self, address: u64, bytes: &[u8]);
    fn load_u16(&self, address: u64) -> u16;
    fn store_u16(&self, address: u64, value: u16);
}

impl Fields for GuestMemory {
    fn put(&self, address: u64, bytes: &[u8]) {
        assert!(self.write_slice(bytes, GuestAddress(address)).is_ok());
    }

    fn load_u16(&self, address: u64) -> u16 {
        self.load(GuestAddress(address), Ordering::Relaxed)
            .unwrap_or_default()
    }

    fn store_u16(&self, address: u64, value: u16) {
        let stored = self.store(value, GuestAddress(address), Ordering::Relaxed);
        assert!(stored.is_ok());
    }
}
