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
const RING_SIZE: u16 = 64;
/// Requests at a time, of three descriptors each.
pub(crate) const SLOTS: u16 = 16;
/// Most bytes of one of them.
pub(crate) const SLOT_BYTES: u64 = 0x1_0000;

const DESC: u64 = 0x1000;
const AVAIL: u64 = 0x2000;
const USED: u64 = 0x3000;
const HEADER: u64 = 0x4000;
const STATUS: u64 = 0x5000;
/// Where the data of requests is.
const DATA: u64 = 0x10_0000;

const DESC_NEXT: u16 = 1;
const DESC_WRITE: u16 = 2;

/// Offered by the daemon and taken by this VMM, the bit for protocol features included.
pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 30;
pub(crate) const FLUSH: u64 = 1 << 9;
pub(crate) const CONFIG_WCE: u64 = 1 << 11;

pub(crate) const T_OUT: u32 = 1;
pub(crate) const T_FLUSH: u32 = 4;
pub(crate) const T_DISCARD: u32 = 11;
pub(crate) const T_WRITE_ZEROES: u32 = 13;

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

    /// Acknowledges [`FEATURES`] as qemu does, then becomes the owner.
    pub(crate) fn negotiate(&mut self) {
        self.negotiate_also(0);
    }

    /// As [`Vmm::negotiate`], with more features.
    pub(crate) fn negotiate_also(&mut self, more: u64) {
        let features = self.frontend.get_features().unwrap();
        let wanted = FEATURES | more;
        assert_eq!(features & wanted, wanted);
        let protocol = self.frontend.get_protocol_features().unwrap();
        self.frontend
            .set_protocol_features(protocol & VhostUserProtocolFeatures::all())
            .unwrap();
        // From here on every message is answered: what it asks for is done when it returns.
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        self.frontend.set_owner().unwrap();
        self.frontend.set_features(wanted).unwrap();
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

    pub(crate) fn set_config(&mut self, offset: u32, bytes: &[u8]) {
        let flags = VhostUserConfigFlags::WRITABLE;
        self.frontend.set_config(offset, flags, bytes).unwrap();
    }

    /// Connects to another daemon with the same memory and the features `more`; the ring is not
    /// set up.
    pub(crate) fn reconnect(&mut self, socket: &Path, more: u64) {
        self.frontend = Frontend::connect(socket, 64).unwrap();
        self.negotiate_also(more);
        self.share_memory();
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
        self.add(0, 0, sector, len, DESC_WRITE);
    }

    /// Puts a request with `data` into slot `slot` of memory and into the ring; no kick.
    pub(crate) fn add_with(&mut self, slot: u16, kind: u32, sector: u64, data: &[u8]) {
        let at = GuestAddress(DATA + u64::from(slot) * SLOT_BYTES);
        self.memory.write_slice(data, at).unwrap();
        self.add(slot, kind, sector, u32::try_from(data.len()).unwrap(), 0);
    }

    fn add(&mut self, slot: u16, kind: u32, sector: u64, len: u32, data_flags: u16) {
        let mut bytes = [0_u8; 16];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        let header = HEADER + u64::from(slot) * 16;
        let status = STATUS + u64::from(slot);
        self.memory
            .write_slice(&bytes, GuestAddress(header))
            .unwrap();
        self.memory
            .write_obj(0xff_u8, GuestAddress(status))
            .unwrap();
        let data = DATA + u64::from(slot) * SLOT_BYTES;
        let head = slot * 3;
        self.write_descriptor(head, header, 16, DESC_NEXT);
        self.write_descriptor(head + 1, data, len, DESC_NEXT | data_flags);
        self.write_descriptor(head + 2, status, 1, DESC_WRITE);
        let entry = u64::from(self.next % RING_SIZE);
        self.write_u16(AVAIL + 4 + entry * 2, head);
        self.next = self.next.wrapping_add(1);
        self.set_avail_idx(self.next);
    }

    /// Slot and status of the request whose used entry is at `position`.
    pub(crate) fn used(&self, position: u16) -> (u16, u8) {
        let at = USED + 4 + 8 * u64::from(position % RING_SIZE);
        let head: u32 = self.memory.read_obj(GuestAddress(at)).unwrap();
        let slot = u16::try_from(head / 3).unwrap();
        let status = GuestAddress(STATUS + u64::from(slot));
        (slot, self.memory.read_obj(status).unwrap())
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

    /// Waits until the daemon has used all requests; returns the status of slot 0.
    pub(crate) fn wait_until_used(&self) -> u8 {
        while self.used_idx() != self.next {
            self.wait_for_call();
        }
        self.memory.read_obj(GuestAddress(STATUS)).unwrap()
    }

    /// Waits until the daemon has called.
    pub(crate) fn wait_for_call(&self) {
        let mut events = [EpollEvent::default()];
        let timeout_ms = i32::try_from(DEADLINE.as_millis()).unwrap();
        let count = loop {
            match self.called.wait(timeout_ms, &mut events) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                count => break count.unwrap(),
            }
        };
        assert_eq!(count, 1, "no call in time");
        self.call.read().unwrap();
    }

    /// Sends one request with `data` and returns its status.
    pub(crate) fn request(&mut self, kind: u32, sector: u64, data: &[u8]) -> u8 {
        self.add_with(0, kind, sector, data);
        self.kick();
        self.wait_until_used()
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
