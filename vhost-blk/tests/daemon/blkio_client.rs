//! A guest nobody here wrote: the `virtio-blk-vhost-user` driver of the `blkio` crate.
//!
//! Invariant: a buffer belongs to the daemon from the submission of a request until its completion.

use std::mem::MaybeUninit;
use std::path::Path;

use blkio::{Blkio, Blkioq, Completion, MemoryRegion, ReqFlags};

use crate::process::DEADLINE;

/// A connected disk.
pub(crate) struct Client {
    // Dropped before the device, which frees the buffers.
    queues: Vec<Blkioq>,
    device: Blkio,
    buffers: MemoryRegion,
}

impl Client {
    /// Connects to the daemon; `buffer_bytes` is the room for all requests in flight together.
    pub(crate) fn connect(
        socket: &Path,
        is_read_only: bool,
        num_queues: i32,
        queue_size: i32,
        buffer_bytes: usize,
    ) -> Self {
        let mut device = Blkio::new("virtio-blk-vhost-user").unwrap();
        device.set_str("path", socket.to_str().unwrap()).unwrap();
        device.set_bool("read-only", is_read_only).unwrap();
        device.connect().unwrap();
        device.set_i32("num-queues", num_queues).unwrap();
        device.set_i32("queue-size", queue_size).unwrap();
        let mut queues = device.start().unwrap().queues;
        for queue in &mut queues {
            queue.set_completion_fd_enabled(true);
        }
        let buffers = device.alloc_mem_region(buffer_bytes).unwrap();
        device.map_mem_region(&buffers).unwrap();
        Self {
            queues,
            device,
            buffers,
        }
    }

    /// Size of the disk in bytes.
    pub(crate) fn capacity(&self) -> u64 {
        self.device.get_u64("capacity").unwrap()
    }

    /// Reads the whole disk in blocks of `block` bytes, `depth` at a time on every queue, all
    /// queues at once, and hands each block to `check` with its offset, in whatever order they
    /// come.
    pub(crate) fn read_all(
        &mut self,
        depth: usize,
        block: usize,
        check: impl Fn(u64, &[u8]) + Sync,
    ) {
        self.on_all_queues(depth, block, |share, queue| {
            share.run(
                queue,
                depth,
                &|queue, extent| {
                    let (offset, buffer, len, slot) = extent;
                    queue.read(offset, buffer, len, slot, ReqFlags::empty());
                },
                &check,
            );
        });
    }

    /// As [`Client::read_all`], and writes what `fill` puts into each block.
    pub(crate) fn write_all(
        &mut self,
        depth: usize,
        block: usize,
        fill: impl Fn(u64, &mut [u8]) + Sync,
    ) {
        self.on_all_queues(depth, block, |share, queue| {
            share.run(
                queue,
                depth,
                &|queue, extent| {
                    let (offset, buffer, len, slot) = extent;
                    // SAFETY: inside the mapped region; not the daemon's yet, see the module.
                    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer, len) };
                    fill(offset, bytes);
                    queue.write(offset, buffer, len, slot, ReqFlags::empty());
                },
                &|_, _| {},
            );
        });
    }

    fn on_all_queues(
        &mut self,
        depth: usize,
        block: usize,
        work: impl Fn(Share, &mut Blkioq) + Sync,
    ) {
        let capacity = self.capacity();
        let queues = self.queues.len();
        assert!(queues * depth * block <= self.buffers.len);
        let address = self.buffers.addr;
        let work = &work;
        std::thread::scope(|scope| {
            for (number, queue) in self.queues.iter_mut().enumerate() {
                scope.spawn(move || {
                    let share = Share {
                        capacity,
                        block,
                        first: number,
                        step: queues,
                        buffers: address + number * depth * block,
                    };
                    work(share, queue);
                });
            }
        });
    }

    /// Does one request without data on the first queue.
    pub(crate) fn request(&mut self, submit: impl FnOnce(&mut Blkioq)) {
        let queue = self.queues.first_mut().unwrap();
        submit(queue);
        assert_eq!(wait(queue).len(), 1);
    }
}

/// The blocks that one queue deals with, and its buffers.
struct Share {
    capacity: u64,
    block: usize,
    /// Number of the first block, and the distance to the next.
    first: usize,
    step: usize,
    buffers: usize,
}

/// Offset on the disk, buffer, length, number of the buffer.
type Extent = (u64, *mut u8, usize, usize);

impl Share {
    /// Offset and length of a block, `None` behind the last one.
    fn extent(&self, number: usize) -> Option<(u64, usize)> {
        let offset = (number * self.block) as u64;
        let left = usize::try_from(self.capacity.checked_sub(offset)?).unwrap();
        (left > 0).then_some((offset, left.min(self.block)))
    }

    fn run(
        &self,
        queue: &mut Blkioq,
        depth: usize,
        submit: &impl Fn(&mut Blkioq, Extent),
        done: &impl Fn(u64, &[u8]),
    ) {
        let mut numbers = (self.first..).step_by(self.step);
        let mut in_flight = vec![None; depth];
        let buffer = |slot: usize| self.buffers + slot * self.block;
        loop {
            for (slot, extent) in in_flight.iter_mut().enumerate() {
                if extent.is_none() {
                    *extent = numbers.next().and_then(|number| self.extent(number));
                    if let Some((offset, len)) = *extent {
                        submit(queue, (offset, buffer(slot) as *mut u8, len, slot));
                    }
                }
            }
            if in_flight.iter().all(Option::is_none) {
                return;
            }
            for slot in wait(queue) {
                let (offset, len) = in_flight[slot].take().expect("a request in flight");
                // SAFETY: inside the mapped region; the daemon is done with it, see the module.
                let bytes = unsafe { std::slice::from_raw_parts(buffer(slot) as *const u8, len) };
                done(offset, bytes);
            }
        }
    }
}

/// Waits for at least one completion.
fn wait(queue: &mut Blkioq) -> Vec<usize> {
    let mut completions = [const { MaybeUninit::<Completion>::uninit() }; 64];
    let mut timeout = DEADLINE;
    let count = queue
        .do_io(&mut completions, 1, Some(&mut timeout), None)
        .expect("a completion in time");
    completions
        .iter()
        .take(count)
        .map(|completion| {
            // SAFETY: `do_io` says that it has filled the first `count`.
            let completion = unsafe { completion.assume_init_ref() };
            assert_eq!(completion.ret, 0, "a request failed");
            completion.user_data
        })
        .collect()
}
