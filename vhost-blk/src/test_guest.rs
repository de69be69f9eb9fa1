//! A guest for unit tests: memory, one ring, and a disk behind it.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use layers::io::{MemoryFile, UpperFile};
pub(crate) use layers::lsmt::upper::UpperKind;
use layers::lsmt::upper::{self, CreateOptions, Upper};
use layers::lsmt::{HEADER_BYTES, Layer, LayerBuilder, LayerOptions, Uuid};
use layers::{Access, Dest, Error, ErrorKind, Image, Progress, ReadAt, Result, Wait, WriteAt};
use tempfile::TempDir;
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic};

use crate::cache_mode::CacheMode;
use crate::disk::Disk;
use crate::guest_memory::{GuestMemory, SharedGuestMemory};
use crate::mailbox::Mailbox;
use crate::pool::Pool;
use crate::queue::{SharedQueue, StopDeadline};
use crate::ring::RingLayout;
use crate::worker::Worker;
use layers::WritePace;

/// Entries of the ring.
pub(crate) const RING_SIZE: u16 = 16;
/// Two regions of half of it each.
pub(crate) const MEMORY_BYTES: usize = 4 << 20;
pub(crate) const LAYOUT: RingLayout = RingLayout {
    size: RING_SIZE,
    desc: 0x1000,
    avail: 0x2000,
    used: 0x3000,
};
pub(crate) const HEADER: u64 = 0x4000;
pub(crate) const STATUS: u64 = 0x5000;
pub(crate) const INDIRECT: u64 = 0x6000;
pub(crate) const DATA: u64 = 0x10_0000;
/// Not in guest memory.
pub(crate) const UNMAPPED: u64 = 0x4000_0000;

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT_FLAG: u16 = 4;

pub(crate) const DISK_BYTES: u64 = 64 << 20;
/// Data that is at hand lies in front of the disk, the rest of it here: this must be waited for.
pub(crate) const PENDING_FROM: u64 = 32 << 20;
/// This is broken.
pub(crate) const BAD_FROM: u64 = 48 << 20;
/// Bytes of these three runs of data.
const GOOD_BYTES: usize = 4 << 20;
const PENDING_BYTES: usize = 1 << 20;
const BAD_BYTES: usize = 4096;
/// A status that no request gives.
pub(crate) const UNTOUCHED: u8 = 0xee;

/// One descriptor: address, length, flags. Its next one follows it in the table.
pub(crate) type Descriptor = (u64, u32, u16);

/// The byte of the test disk at `offset`.
pub(crate) fn disk_byte(offset: u64) -> u8 {
    (offset / 512 * 7 + offset % 251).to_le_bytes()[0]
}

pub(crate) fn disk_bytes(offset: u64, len: usize) -> Vec<u8> {
    (offset..).take(len).map(disk_byte).collect()
}

/// The file of a layer; `gate` is asked before data is read.
struct GatedLayer<G> {
    file: MemoryFile,
    data_end: u64,
    gate: G,
}

impl<G> fmt::Debug for GatedLayer<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl<G: Fn(u64, Wait) -> Result<Progress> + Send + Sync> ReadAt for GatedLayer<G> {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn name(&self) -> &str {
        self.file.name()
    }

    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        if offset < self.data_end
            && let Some(data_offset) = offset.checked_sub(HEADER_BYTES as u64)
            && (self.gate)(data_offset, wait)? == Progress::Pending
        {
            return Ok(Progress::Pending);
        }
        self.file.read_at(offset, dest, wait)
    }
}

/// A disk of `DISK_BYTES` with runs of data at byte offsets, holes between them. Every read of
/// data asks `gate`, which gets its offset in all the data.
pub(crate) fn disk_of<G>(runs: &[(u64, &[u8])], gate: G) -> Disk
where
    G: Fn(u64, Wait) -> Result<Progress> + Send + Sync + 'static,
{
    let options = LayerOptions {
        virtual_size_bytes: DISK_BYTES,
        ..LayerOptions::default()
    };
    let mut builder = LayerBuilder::new(Vec::new(), options).unwrap();
    for (offset, data) in runs {
        builder.append(offset / 512, data).unwrap();
    }
    let (file, summary) = builder.finish().unwrap();
    let layer = GatedLayer {
        file: MemoryFile::new("layer", file),
        data_end: HEADER_BYTES as u64 + summary.data_bytes,
        gate,
    };
    let layer = Layer::open(Box::new(layer)).unwrap();
    let image = Image::from_layers(vec![layer], "").unwrap();
    Disk::new(image, "test disk".to_owned(), "serial-of-the-disk")
}

/// A disk of three runs of data; each read that must wait takes one of `tokens`.
fn test_disk(tokens: Receiver<()>) -> Disk {
    static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| disk_bytes(0, GOOD_BYTES));
    static PENDING: LazyLock<Vec<u8>> = LazyLock::new(|| disk_bytes(PENDING_FROM, PENDING_BYTES));
    let tokens = Mutex::new(tokens);
    let runs = [
        (0, &GOOD[..]),
        (PENDING_FROM, &PENDING),
        (BAD_FROM, &[0; BAD_BYTES]),
    ];
    disk_of(&runs, move |data_offset, wait| {
        if data_offset >= (GOOD_BYTES + PENDING_BYTES) as u64 {
            return Err(Error::new(ErrorKind::Corrupt, "read", "bad on purpose"));
        }
        if data_offset >= GOOD_BYTES as u64 {
            if wait == Wait::Never {
                return Ok(Progress::Pending);
            }
            tokens.lock().unwrap().recv().unwrap();
        }
        Ok(Progress::Done)
    })
}

/// What is about to happen to a file of a writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    WriteData,
    FlushData,
    /// Of the index log: a commit, and the mark of a flush.
    WriteIndex,
    FlushIndex,
}

/// A file of a writable layer; `gate` is asked before it is changed.
struct GatedFile<G> {
    file: UpperFile,
    write: Change,
    flush: Change,
    gate: Arc<G>,
    _dir: Arc<TempDir>,
}

impl<G> fmt::Debug for GatedFile<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl<G: Fn(Change) -> Result<()> + Send + Sync> ReadAt for GatedFile<G> {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn name(&self) -> &str {
        self.file.name()
    }

    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        self.file.read_at(offset, dest, wait)
    }
}

impl<G: Fn(Change) -> Result<()> + Send + Sync> WriteAt for GatedFile<G> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        (self.gate)(self.write)?;
        self.file.write_at(offset, data)
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.file.set_size(size)
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<()> {
        self.file.punch_hole(range)
    }

    fn flush(&self) -> Result<()> {
        (self.gate)(self.flush)?;
        self.file.flush()
    }

    fn next_data_extent(&self, from: u64) -> Result<Option<Range<u64>>> {
        self.file.next_data_extent(from)
    }
}

/// A disk of `DISK_BYTES` of zeros that is written, by the ring's own thread where that is allowed.
/// Every change of its files asks `gate`.
pub(crate) fn writable_disk<G>(kind: UpperKind, gate: G) -> Disk
where
    G: Fn(Change) -> Result<()> + Send + Sync + 'static,
{
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let [data, index] = ["data", "index"].map(|name| dir.path().join(name));
    let options = CreateOptions {
        kind,
        virtual_size_bytes: DISK_BYTES,
        parent_uuid: Uuid::NIL,
    };
    upper::create(&data, &index, options).unwrap();
    let gate = Arc::new(gate);
    let file = |path, write, flush| {
        let file = UpperFile::open(path, Access::Write).unwrap();
        let (gate, dir) = (Arc::clone(&gate), Arc::clone(&dir));
        Box::new(GatedFile {
            file,
            write,
            flush,
            gate,
            _dir: dir,
        })
    };
    let data = file(&data, Change::WriteData, Change::FlushData);
    let index = file(&index, Change::WriteIndex, Change::FlushIndex);
    let upper = Upper::from_files(data, index).unwrap();
    let image = Image::with_upper(Vec::new(), upper).unwrap();
    Disk::new(image, "test disk".to_owned(), "writable").with_pace(WritePace::always_quick())
}

pub(crate) struct Guest {
    pub(crate) disk: Arc<Disk>,
    pub(crate) cache: Arc<CacheMode>,
    pub(crate) memory: GuestMemory,
    pub(crate) shared_memory: SharedGuestMemory,
    pub(crate) queue: Arc<SharedQueue>,
    pub(crate) stops: Arc<StopDeadline>,
    pub(crate) worker: Worker,
    pub(crate) mailbox: Arc<Mailbox>,
    call: std::io::PipeReader,
    call_marker: std::io::PipeWriter,
    tokens: Sender<()>,
    next_descriptor: u16,
    next_avail: u16,
}

impl Guest {
    /// A guest with a disk that is read-only.
    pub(crate) fn new() -> Self {
        let (tokens, disk_tokens) = channel();
        Self::with(test_disk(disk_tokens), tokens)
    }

    /// A guest with a disk of its own, which flushes when it wants to.
    pub(crate) fn with_disk(disk: Disk) -> Self {
        Self::with(disk, channel().0)
    }

    fn with(disk: Disk, tokens: Sender<()>) -> Self {
        let memory = GuestMemory::from_ranges(&[
            (GuestAddress(0), MEMORY_BYTES / 2),
            // Neighbours in the guest, not on the host.
            (GuestAddress(MEMORY_BYTES as u64 / 2), MEMORY_BYTES / 2),
        ])
        .unwrap();
        let disk = Arc::new(disk);
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let cache = Arc::new(CacheMode::new(Arc::clone(disk.cache_switch())));
        cache.negotiate(1 << VIRTIO_BLK_F_FLUSH);
        let (call, call_marker) = std::io::pipe().unwrap();
        let call_of_queue = call_marker.try_clone().unwrap();
        let stops = Arc::<StopDeadline>::default();
        let queue = SharedQueue::new(Arc::clone(&disk), 0, Arc::clone(&stops));
        let queue = Arc::new(queue);
        queue.set_layout(LAYOUT);
        queue.set_call(Some(File::from(OwnedFd::from(call_of_queue))));
        queue.start();
        queue.set_enabled(true);
        Self {
            shared_memory: GuestMemoryAtomic::new(memory.clone()),
            memory,
            worker: Worker::new(
                Arc::clone(&disk),
                Arc::new(Pool::new(4)),
                Arc::clone(&mailbox),
                Arc::clone(&cache),
            ),
            disk,
            cache,
            queue,
            stops,
            mailbox,
            call,
            call_marker,
            tokens,
            next_descriptor: 0,
            next_avail: 0,
        }
    }

    /// Lets one waiting read of the disk go on.
    pub(crate) fn give_token(&self) {
        self.tokens.send(()).unwrap();
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub(crate) fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    pub(crate) fn u16(&self, address: u64) -> u16 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    pub(crate) fn set_u16(&self, address: u64, value: u16) {
        self.memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    pub(crate) fn write_header(&self, kind: u32, sector: u64) {
        self.write_header_at(HEADER, kind, sector);
    }

    pub(crate) fn write_header_at(&self, address: u64, kind: u32, sector: u64) {
        self.write(address, &kind.to_le_bytes());
        self.write(address + 4, &[0xaa; 4]);
        self.write(address + 8, &sector.to_le_bytes());
    }

    pub(crate) fn write_table(&self, table: u64, first: u16, chain: &[Descriptor]) {
        for (index, (address, len, flags)) in (first..).zip(chain) {
            let at = table + u64::from(index) * 16;
            self.write(at, &address.to_le_bytes());
            self.write(at + 8, &len.to_le_bytes());
            self.set_u16(at + 12, *flags);
            self.set_u16(at + 14, index + 1);
        }
    }

    /// Puts a chain into the ring, its descriptors behind those of the chain before, and returns
    /// its head.
    pub(crate) fn add(&mut self, chain: &[Descriptor]) -> u16 {
        let head = self.next_descriptor;
        self.write_table(LAYOUT.desc, head, chain);
        self.next_descriptor += u16::try_from(chain.len()).unwrap();
        self.make_available(head);
        head
    }

    pub(crate) fn make_available(&mut self, head: u16) {
        let slot = u64::from(self.next_avail % RING_SIZE);
        self.set_u16(LAYOUT.avail + 4 + 2 * slot, head);
        self.next_avail = self.next_avail.wrapping_add(1);
        self.set_u16(LAYOUT.avail + 2, self.next_avail);
    }

    /// Puts a read of `len` bytes at `sector` into `DATA` into the ring.
    pub(crate) fn add_read(&mut self, sector: u64, len: u32) -> u16 {
        let slot = u64::from(self.next_avail);
        let (header, status) = (HEADER + 16 * slot, STATUS + slot);
        self.write_header_at(header, 0, sector);
        self.write(status, &[UNTOUCHED]);
        let data = DATA + slot * 0x1_0000;
        self.add(&[
            (header, 16, NEXT),
            (data, len, NEXT | WRITE),
            (status, 1, WRITE),
        ])
    }

    /// Puts a write of `len` bytes at `sector` from `DATA` into the ring.
    pub(crate) fn add_write(&mut self, sector: u64, len: u32) -> u16 {
        let slot = u64::from(self.next_avail);
        let (header, status) = (HEADER + 16 * slot, STATUS + slot);
        self.write_header_at(header, 1, sector);
        self.write(status, &[UNTOUCHED]);
        self.add(&[(header, 16, NEXT), (DATA, len, NEXT), (status, 1, WRITE)])
    }

    /// Puts a flush into the ring.
    pub(crate) fn add_flush(&mut self) -> u16 {
        let slot = u64::from(self.next_avail);
        let (header, status) = (HEADER + 16 * slot, STATUS + slot);
        self.write_header_at(header, 4, 0);
        self.write(status, &[UNTOUCHED]);
        self.add(&[(header, 16, NEXT), (status, 1, WRITE)])
    }

    /// The bytes of the disk itself.
    pub(crate) fn disk_bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let image = self.disk.image();
        image.read_exact_at(offset, &mut bytes).unwrap();
        bytes
    }

    /// Reuses the descriptor table from its start.
    pub(crate) fn reuse_descriptors(&mut self) {
        self.next_descriptor = 0;
    }

    pub(crate) fn run(&mut self) {
        let queues = [Arc::clone(&self.queue)];
        self.worker.run(&queues, &self.shared_memory);
    }

    /// Runs the worker whenever it is woken, until `count` chains are used.
    pub(crate) fn run_until_used(&mut self, count: u16) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.used_idx() != count {
            assert!(Instant::now() < deadline, "not used in time");
            self.run();
            std::thread::yield_now();
        }
    }

    pub(crate) fn used_idx(&self) -> u16 {
        self.u16(LAYOUT.used + 2)
    }

    /// Head and length of every used entry since the start.
    pub(crate) fn used(&self) -> Vec<(u16, u32)> {
        (0..self.used_idx())
            .map(|position| {
                let at = LAYOUT.used + 4 + 8 * u64::from(position % RING_SIZE);
                let len = self.memory.read_obj(GuestAddress(at + 4)).unwrap();
                (self.u16(at), len)
            })
            .collect()
    }

    pub(crate) fn status(&self) -> u8 {
        self.bytes(STATUS, 1)[0]
    }

    /// How often the queue has called since the last look.
    pub(crate) fn calls(&mut self) -> usize {
        // So that there is something to read in any case.
        self.call_marker.write_all(&[0]).unwrap();
        let mut bytes = [0; 1024];
        self.call.read(&mut bytes).unwrap() / 8
    }
}
