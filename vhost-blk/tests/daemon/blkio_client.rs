//! A guest nobody here wrote: the `virtio-blk-vhost-user` driver of the `blkio` crate.
//!
//! Invariant: a buffer belongs to the daemon from the submission of a read until its completion.

use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Duration;

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};

/// A connected disk with one queue.
pub(crate) struct Client {
    // Dropped before the device, which frees the buffers.
    queue: Blkioq,
    device: Blkio,
    buffers: MemoryRegion,
}

impl Client {
    /// Connects to the daemon; `buffer_bytes` is the room for all reads in flight together.
    pub(crate) fn connect(socket: &Path, queue_size: i32, buffer_bytes: usize) -> Self {
        let mut device = Blkio::new("virtio-blk-vhost-user").unwrap();
        device.set_str("path", socket.to_str().unwrap()).unwrap();
        device.set_bool("read-only", true).unwrap();
        device.connect().unwrap();
        device.set_i32("num-queues", 1).unwrap();
        device.set_i32("queue-size", queue_size).unwrap();
        let mut started = device.start().unwrap();
        let mut queue = started.queues.pop().unwrap();
        queue.set_completion_fd_enabled(true);
        let buffers = device.alloc_mem_region(buffer_bytes).unwrap();
        device.map_mem_region(&buffers).unwrap();
        Self {
            queue,
            device,
            buffers,
        }
    }

    /// Size of the disk in bytes.
    pub(crate) fn capacity(&self) -> u64 {
        self.device.get_u64("capacity").unwrap()
    }

    /// Reads the whole disk in blocks of `block` bytes, `depth` at a time, and hands each to
    /// `check` with its offset, in whatever order they come.
    pub(crate) fn read_all(
        &mut self,
        depth: usize,
        block: usize,
        mut check: impl FnMut(u64, &[u8]),
    ) {
        let capacity = self.capacity();
        let blocks = capacity.div_ceil(block as u64);
        let slot_offset = |slot: usize| slot * block;
        assert!(slot_offset(depth) <= self.buffers.len);
        let extent = |number: u64| {
            let offset = number * block as u64;
            let left = usize::try_from(capacity - offset).unwrap();
            (offset, left.min(block))
        };
        let mut next = 0;
        let mut in_flight = vec![None; depth];
        let mut outstanding = 0;
        while next < blocks || outstanding > 0 {
            for (slot, number) in in_flight.iter_mut().enumerate() {
                if number.is_none() && next < blocks {
                    let (offset, len) = extent(next);
                    let buffer = (self.buffers.addr + slot_offset(slot)) as *mut u8;
                    self.queue
                        .read(offset, buffer, len, slot, ReqFlags::empty());
                    *number = Some(next);
                    outstanding += 1;
                    next += 1;
                }
            }
            for slot in self.wait() {
                let (offset, len) = extent(in_flight[slot].take().expect("a read in flight"));
                outstanding -= 1;
                let buffer = (self.buffers.addr + slot_offset(slot)) as *const u8;
                // SAFETY: inside the mapped region; the daemon is done with it, see the module.
                let bytes = unsafe { std::slice::from_raw_parts(buffer, len) };
                check(offset, bytes);
            }
        }
    }

    /// Waits for at least one completion.
    fn wait(&mut self) -> Vec<usize> {
        let mut completions = [const { MaybeUninit::<Completion>::uninit() }; 64];
        let mut timeout = Duration::from_secs(60);
        let count = self
            .queue
            .do_io(&mut completions, 1, Some(&mut timeout), None)
            .expect("a completion in time");
        completions
            .iter()
            .take(count)
            .map(|completion| {
                // SAFETY: `do_io` says that it has filled the first `count`.
                let completion = unsafe { completion.assume_init_ref() };
                assert_eq!(completion.ret, 0, "a read failed");
                completion.user_data
            })
            .collect()
    }
}
