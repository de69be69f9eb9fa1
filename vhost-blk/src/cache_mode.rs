//! Is a write that was acknowledged already safe from a power cut?
//!
//! VMM messages -> **cache mode** -> worker
//!
//! With a write-back cache a write is safe once a flush behind it has succeeded; with a
//! write-through cache before it is acknowledged. A driver chooses by what it negotiates and, with
//! `CONFIG_WCE`, by the `writeback` byte of the configuration.
//!
//! The byte keeps its value as long as the connection lives. The standard leaves open what it is
//! after a reset, and a VMM negotiates anew when it only paused its guest: a guest that has switched
//! the cache off would lose it without a word, because the VMM shows it the byte from memory. For the
//! same reason a guest that has switched it off is back to write-back, and does not know, when its
//! VMM reconnects: nobody tells the new connection.
//!
//! Source: VirtIO 1.2 sections 5.2.5 (cache mode), 5.2.5.2, 5.2.6.2 (stable writes).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_FLUSH};

/// The cache of one disk as one driver wants it.
#[derive(Debug)]
pub struct CacheMode {
    state: Mutex<State>,
    /// Follows from `state`; readable without a lock.
    writethrough: AtomicBool,
}

#[derive(Debug)]
struct State {
    flush: bool,
    config_wce: bool,
    writeback: bool,
}

impl State {
    fn is_writethrough(&self) -> bool {
        if self.config_wce {
            !self.writeback
        } else {
            !self.flush
        }
    }
}

impl Default for CacheMode {
    /// Before a driver has said anything: whoever does not flush expects write-through.
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                flush: false,
                config_wce: false,
                writeback: true,
            }),
            writethrough: AtomicBool::new(true),
        }
    }
}

impl CacheMode {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        self.writethrough
            .store(state.is_writethrough(), Ordering::Release);
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
            if state.config_wce && !state.flush {
                state.writeback = false;
            }
        });
    }

    /// The driver has written the byte.
    pub fn set_writeback(&self, writeback: bool) {
        self.change(|state| state.writeback = writeback);
    }

    /// The byte as the driver reads it.
    #[must_use]
    pub fn writeback(&self) -> bool {
        self.lock().writeback
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
            let mode = CacheMode::default();
            mode.negotiate(features);
            assert_eq!(mode.is_writethrough(), writethrough, "{features:#x}");
        }
    }

    #[test]
    fn the_byte_counts_for_drivers_that_know_it() {
        let mode = CacheMode::default();
        assert!(mode.writeback());
        mode.negotiate(FLUSH | WCE);
        mode.set_writeback(false);
        assert!(mode.is_writethrough() && !mode.writeback());
        mode.negotiate(FLUSH);
        assert!(!mode.is_writethrough());
        mode.negotiate(FLUSH | WCE);
        assert!(mode.is_writethrough(), "kept over a negotiation");
        mode.set_writeback(true);
        assert!(!mode.is_writethrough() && mode.writeback());
        mode.negotiate(WCE);
        assert!(mode.is_writethrough() && !mode.writeback());
    }
}
