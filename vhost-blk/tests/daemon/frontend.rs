//! A VMM by hand: the frontend of the `vhost` crate, guest memory in a file, and one ring.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::Ordering;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::process::DEADLINE;

const MEMORY_BYTES: usize = 16 << 20;
/// Entries of the ring.
const RING_SIZE: u16 = 16;

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADER: u64 = 0x4000;
const STATUS: u64 = 0x5000;
/// Where reads go.
const DATA: u64 = 0x10_0000;

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;

/// Offered by the daemon and taken by this VMM, the bit for protocol features included.
pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 5;

/// A connected VMM.
pub(crate) struct Vmm {
    pub(crate) frontend: Frontend,
    memory: GuestMemoryMmap,
    file: File,
    kick: EventFd,
    call: EventFd,
    called: Epoll,
    next: u16,
}

impl Vmm {
    /// Connects, no message sent.
    pub(crate) fn connect(socket: &Path) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MEMORY_BYTES as u64).unwrap();
        let backing = FileOffset::new(file.try_clone().unwrap(), 0);
        let range = (GuestAddress(0), MEMORY_BYTES, Some(backing));
        let call = EventFd::new(EFD_NONBLOCK).unwrap();
        let called = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        called
            .ctl(ControlOperation::Add, call.as_raw_fd(), event)
            .unwrap();
        Self {
            frontend: Frontend::connect(socket, 64).unwrap(),
            memory: GuestMemoryMmap::from_ranges_with_files([range]).unwrap(),
            file,
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call,
            called,
            next: 0,
        }
    }

    /// Acknowledges features as qemu does, then becomes the owner.
    pub(crate) fn negotiate(&mut self) {
        let features = self.frontend.get_features().unwrap();
        assert_eq!(features & FEATURES, FEATURES);
        let protocol = self.frontend.get_protocol_features().unwrap();
        self.frontend
            .set_protocol_features(protocol & VhostUserProtocolFeatures::all())
            .unwrap();
        // From here on every message is answered: what it asks for is done when it returns.
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        self.frontend.set_owner().unwrap();
        self.frontend.set_features(FEATURES).unwrap();
    }

    pub(crate) fn config(&mut self, offset: u32, size: u32) -> Vec<u8> {
        let (_, bytes) = self
            .frontend
            .get_config(
                offset,
                size,
                VhostUserConfigFlags::empty(),
                &vec![0; size as usize],
            )
            .unwrap();
        bytes
    }

    pub(crate) fn share_memory(&mut self) {
        self.frontend.set_mem_table(&[self.region()]).unwrap();
    }

    pub(crate) fn region(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: 0,
            memory_size: MEMORY_BYTES as u64,
            userspace_addr: self.host(0),
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    fn host(&self, address: u64) -> u64 {
        self.memory.get_host_address(GuestAddress(address)).unwrap() as u64
    }

    /// Sets queue 0 up as an empty ring that goes on at `base`, and enables it.
    pub(crate) fn start_ring(&mut self, base: u16) {
        self.next = base;
        self.set_avail_idx(base);
        self.write_u16(USED + 2, base);
        self.resume_ring(base);
    }

    /// Sets queue 0 up again with whatever is in the ring.
    pub(crate) fn resume_ring(&mut self, base: u16) {
        self.frontend.set_vring_num(0, RING_SIZE).unwrap();
        self.frontend.set_vring_base(0, base).unwrap();
        let addresses = VringConfigData {
            queue_max_size: RING_SIZE,
            queue_size: RING_SIZE,
            flags: 0,
            desc_table_addr: self.host(DESC),
            used_ring_addr: self.host(USED),
            avail_ring_addr: self.host(AVAIL),
            log_addr: None,
        };
        self.frontend.set_vring_addr(0, &addresses).unwrap();
        self.frontend.set_vring_call(0, &self.call).unwrap();
        self.frontend.set_vring_kick(0, &self.kick).unwrap();
        self.frontend.set_vring_enable(0, true).unwrap();
    }

    fn write_u16(&self, address: u64, value: u16) {
        self.memory
            .store(value, GuestAddress(address), Ordering::Release)
            .unwrap();
    }

    pub(crate) fn set_avail_idx(&self, idx: u16) {
        self.write_u16(AVAIL + 2, idx);
    }

    pub(crate) fn used_idx(&self) -> u16 {
        self.memory
            .load(GuestAddress(USED + 2), Ordering::Acquire)
            .unwrap()
    }

    pub(crate) fn kick(&self) {
        self.kick.write(1).unwrap();
    }

    /// Puts a read of `len` bytes at `sector` into the ring; no kick.
    pub(crate) fn add_read(&mut self, sector: u64, len: u32) {
        let mut header = [0_u8; 16];
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory
            .write_slice(&header, GuestAddress(HEADER))
            .unwrap();
        self.memory
            .write_obj(0xff_u8, GuestAddress(STATUS))
            .unwrap();
        self.write_descriptor(0, HEADER, 16, DESC_NEXT);
        self.write_descriptor(1, DATA, len, DESC_NEXT | DESC_WRITE);
        self.write_descriptor(2, STATUS, 1, DESC_WRITE);
        let slot = u64::from(self.next % RING_SIZE);
        self.write_u16(AVAIL + 4 + slot * 2, 0);
        self.next = self.next.wrapping_add(1);
        self.set_avail_idx(self.next);
    }

    fn write_descriptor(&self, index: u16, address: u64, len: u32, flags: u16) {
        let mut bytes = [0_u8; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&(index + 1).to_le_bytes());
        let at = GuestAddress(DESC + u64::from(index) * 16);
        self.memory.write_slice(&bytes, at).unwrap();
    }

    /// Waits until the daemon has used all requests; returns the last one's status.
    pub(crate) fn wait_until_used(&self) -> u8 {
        let mut events = [EpollEvent::default()];
        while self.used_idx() != self.next {
            let timeout_ms = i32::try_from(DEADLINE.as_millis()).unwrap();
            let count = self.called.wait(timeout_ms, &mut events).unwrap();
            assert_eq!(count, 1, "no call in time");
            self.call.read().unwrap();
        }
        self.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    /// Reads `len` bytes at `sector` through the ring.
    pub(crate) fn read(&mut self, sector: u64, len: u32) -> Vec<u8> {
        self.add_read(sector, len);
        self.kick();
        assert_eq!(self.wait_until_used(), 0);
        let mut bytes = vec![0; len as usize];
        self.memory
            .read_slice(&mut bytes, GuestAddress(DATA))
            .unwrap();
        bytes
    }
}
