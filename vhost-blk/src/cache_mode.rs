//! Is a write that was acknowledged already safe from a power cut?
//!
//! VMM messages -> **cache mode** -> worker
//!
//! With a write-back cache a write is safe once a flush behind it has succeeded; with a
//! write-through cache before it is acknowledged. A driver chooses by what it negotiates and, with
//! `CONFIG_WCE`, by the `writeback` byte of the configuration.
//!
//! A byte that a driver has set to 0 stays 0 until a driver sets it to 1: over resets, of which the
//! standard says nothing, over connections, and over the end of the process (see
//! [`CacheSwitch`]). A VMM negotiates anew when it only paused its guest or reconnected, and shows
//! the guest the byte from memory, so a guest would lose its choice without a word.
//!
//! Source: VirtIO 1.2 sections 5.2.5 (cache mode), 5.2.5.2, 5.2.6.2 (stable writes).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH};

use crate::cache_switch::CacheSwitch;

/// The cache of one disk during one connection.
#[derive(Debug)]
pub struct CacheMode {
    switch: Arc<CacheSwitch>,
    state: Mutex<State>,
    /// Follows from `state`; readable without a lock.
    writethrough: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    flush: bool,
    config_wce: bool,
    /// The byte is 0 though no driver has said so: this one cannot flush.
    starts_off: bool,
}

impl State {
    fn writeback(&self, switch: &CacheSwitch) -> bool {
        !switch.is_off() && !self.starts_off
    }

    fn is_writethrough(&self, switch: &CacheSwitch) -> bool {
        if self.config_wce {
            !self.writeback(switch)
        } else {
            !self.flush
        }
    }
}

impl CacheMode {
    /// Before a driver has said anything: whoever does not flush expects write-through.
    #[must_use]
    pub fn new(switch: Arc<CacheSwitch>) -> Self {
        Self {
            switch,
            state: Mutex::default(),
            writethrough: AtomicBool::new(true),
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        self.writethrough
            .store(state.is_writethrough(&self.switch), Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver has negotiated these virtio features.
    pub fn negotiate(&self, features: u64) {
        let has = |bit: u32| features & 1 << bit != 0;
        self.change(|state| {
            state.flush = has(VIRTIO_BLK_F_FLUSH);
            state.config_wce = has(VIRTIO_BLK_F_CONFIG_WCE);
            state.starts_off = state.config_wce && !state.flush;
        });
    }

    /// The driver has written the byte. It counts from now on, also on an error.
    ///
    /// # Errors
    /// As [`CacheSwitch::set_off`].
    pub fn set_writeback(&self, writeback: bool) -> io::Result<()> {
        let mut kept = Ok(());
        self.change(|state| {
            state.starts_off = false;
            kept = self.switch.set_off(!writeback);
        });
        kept
    }

    /// The byte as the driver reads it.
    #[must_use]
    pub fn writeback(&self) -> bool {
        self.lock().writeback(&self.switch)
    }

    /// Must a write be on the device before it is acknowledged?
    #[must_use]
    pub fn is_writethrough(&self) -> bool {
        self.writethrough.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
    const WCE: u64 = 1 << VIRTIO_BLK_F_CONFIG_WCE;

    #[test]
    fn who_cannot_flush_gets_write_through() {
        for (features, writethrough) in
            [(0, true), (FLUSH, false), (FLUSH | WCE, false), (WCE, true)]
        {
            let mode = CacheMode::new(Arc::default());
            mode.negotiate(features);
            assert_eq!(mode.is_writethrough(), writethrough, "{features:#x}");
        }
    }

    #[test]
    fn the_byte_counts_for_drivers_that_know_it() {
        let mode = CacheMode::new(Arc::default());
        assert!(mode.writeback());
        mode.negotiate(FLUSH | WCE);
        mode.set_writeback(false).unwrap();
        assert!(mode.is_writethrough() && !mode.writeback());
        mode.negotiate(FLUSH);
        assert!(!mode.is_writethrough());
        mode.negotiate(FLUSH | WCE);
        assert!(mode.is_writethrough(), "kept over a negotiation");
        mode.set_writeback(true).unwrap();
        assert!(!mode.is_writethrough() && mode.writeback());
        mode.negotiate(WCE);
        assert!(mode.is_writethrough() && !mode.writeback());
        mode.set_writeback(true).unwrap();
        assert!(!mode.is_writethrough() && mode.writeback());
    }

    #[test]
    fn the_next_connection_finds_the_cache_as_a_driver_has_switched_it() {
        let switch = Arc::<CacheSwitch>::default();
        let connect = |features| {
            let mode = CacheMode::new(Arc::clone(&switch));
            mode.negotiate(features);
            mode
        };
        connect(FLUSH | WCE).set_writeback(false).unwrap();
        let next = connect(FLUSH | WCE);
        assert!(next.is_writethrough() && !next.writeback());
        assert!(
            !connect(FLUSH).is_writethrough(),
            "it does not know the byte"
        );
        next.set_writeback(true).unwrap();
        assert!(!connect(FLUSH | WCE).is_writethrough());
    }

    #[test]
    fn a_driver_that_cannot_flush_leaves_no_trace() {
        let switch = Arc::<CacheSwitch>::default();
        CacheMode::new(Arc::clone(&switch)).negotiate(WCE);
        assert!(!switch.is_off());
    }
}
