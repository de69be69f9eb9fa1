//! What `vhost-user-backend` sees of a queue.
//!
//! VMM messages -> vhost-user-backend -> **vring** -> queue
//!
//! The crate keeps its own state of each vring for the messages it answers; everything that
//! concerns the ring in guest memory is passed on to [`SharedQueue`], which the workers use. The
//! crate makes the vrings itself and hands them nothing of ours: [`with_queues`] does.
//!
//! Invariants
//! - an error in reading a kick never reaches the crate: its worker thread would end for good.
//! - kick and call files are non-blocking before they are used: a read must not hang on somebody
//!   else's kick, nor a write on calls that nobody reads.

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error as QueueError;

use crate::guest_memory::SharedGuestMemory;
use crate::queue::SharedQueue;
use crate::ring::RingLayout;

/// Longest time that stopping the rings of a session waits for their requests in flight.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(5);

thread_local! {
    /// Queues of the vrings that are made next on this thread, the last one first.
    static QUEUES: RefCell<Vec<Arc<SharedQueue>>> = const { RefCell::new(Vec::new()) };
}

/// Runs `make`, which makes a vring for each of `queues`, in this order and on this thread.
pub fn with_queues<T>(queues: &[Arc<SharedQueue>], make: impl FnOnce() -> T) -> T {
    QUEUES.set(queues.iter().rev().cloned().collect());
    let made = make();
    QUEUES.take();
    made
}

/// One vring.
#[derive(Clone)]
pub struct DiskVring {
    state: VringMutex<SharedGuestMemory>,
    queue: Arc<SharedQueue>,
}

impl fmt::Debug for DiskVring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiskVring")
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

impl AsRef<SharedQueue> for DiskVring {
    fn as_ref(&self) -> &SharedQueue {
        &self.queue
    }
}

impl DiskVring {
    /// Passes on what the crate has accepted of a change to size or addresses.
    fn pass_on_layout(&self) {
        let state = self.state.get_ref().get_queue().state();
        self.queue.set_layout(RingLayout {
            size: state.size,
            desc: state.desc_table,
            avail: state.avail_ring,
            used: state.used_ring,
        });
    }
}

impl<'a> VringStateGuard<'a, SharedGuestMemory> for DiskVring {
    type G = MutexGuard<'a, VringState<SharedGuestMemory>>;
}

impl<'a> VringStateMutGuard<'a, SharedGuestMemory> for DiskVring {
    type G = MutexGuard<'a, VringState<SharedGuestMemory>>;
}

impl VringT<SharedGuestMemory> for DiskVring {
    /// Fails outside of [`with_queues`].
    fn new(memory: SharedGuestMemory, max_queue_size: u16) -> Result<Self, QueueError> {
        let queue = QUEUES.with_borrow_mut(Vec::pop);
        Ok(Self {
            state: VringMutex::new(memory, max_queue_size)?,
            queue: queue.ok_or(QueueError::QueueNotReady)?,
        })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, SharedGuestMemory>>::G {
        self.state.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, SharedGuestMemory>>::G {
        self.state.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.state.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.state.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.state.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.state.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.state.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.state.set_enabled(enabled);
        self.queue.set_enabled(enabled);
    }

    fn set_queue_info(&self, desc: u64, avail: u64, used: u64) -> Result<(), QueueError> {
        self.state.set_queue_info(desc, avail, used)?;
        self.pass_on_layout();
        Ok(())
    }

    fn queue_next_avail(&self) -> u16 {
        self.queue.next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.queue.set_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.queue.set_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.state.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.state.set_queue_size(num);
        self.pass_on_layout();
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.queue.set_event_idx(enabled);
    }

    /// Ready means started. Stopping waits for the requests in flight, so that the available
    /// position which the crate asks for next is final.
    fn set_queue_ready(&self, ready: bool) {
        if ready {
            self.queue.start();
        } else {
            self.queue.stop(STOP_TIMEOUT);
        }
        self.state.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        self.state.set_kick(file.and_then(nonblocking));
    }

    fn read_kick(&self) -> io::Result<bool> {
        let state = self.state.get_ref();
        if let Some(kick) = state.get_kick() {
            drop(kick.consume());
        }
        Ok(state.is_enabled())
    }

    fn set_call(&self, file: Option<File>) {
        self.queue.set_call(file.and_then(nonblocking_unless_event));
    }

    fn set_err(&self, _file: Option<File>) {}
}

/// A write to an eventfd never waits in practice, and the VMM, which shares the file's flags, may
/// read it blocking. Anything else that poses as one could hold up a worker for ever.
fn nonblocking_unless_event(file: File) -> Option<File> {
    let kind = file.metadata().ok()?.file_type();
    if kind.is_fifo() || kind.is_socket() {
        nonblocking(file)
    } else {
        Some(file)
    }
}

/// The standard library offers this for sockets; the system call is the same for every file.
fn nonblocking(file: File) -> Option<File> {
    let stream = UnixStream::from(OwnedFd::from(file));
    match stream.set_nonblocking(true) {
        Ok(()) => Some(File::from(OwnedFd::from(stream))),
        Err(error) => {
            log::warn!("ignored a kick or call file that cannot be made non-blocking: {error}");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use vm_memory::GuestMemoryAtomic;

    use super::*;
    use crate::guest_memory::GuestMemory;
    use crate::test_guest::Guest;

    #[test]
    fn kick_and_call_files_are_made_non_blocking() {
        let queues = [Arc::clone(&Guest::new().queue)];
        let memory = GuestMemoryAtomic::new(GuestMemory::new());
        let vring = with_queues(&queues, || DiskVring::new(memory, 16)).unwrap();
        let (kick, call) = std::io::pipe().unwrap();
        let (kick, call) = (OwnedFd::from(kick), OwnedFd::from(call));
        vring.set_kick(Some(File::from(kick.try_clone().unwrap())));
        vring.set_call(Some(File::from(call.try_clone().unwrap())));
        for fd in [kick, call] {
            let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
            let info = std::fs::read_to_string(path).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = i32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
            assert_ne!(flags & libc::O_NONBLOCK, 0, "{info}");
        }
    }
}
