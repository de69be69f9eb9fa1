//! Survives page faults that the kernel cannot serve in a mapped file.
//!
//! mapped file -> **fault guard** -> SIGBUS
//!
//! When a mapped file was truncated, or its disk fails, touching the mapping raises SIGBUS, which
//! ends the process and every VM with it. The guard's handler puts a page of zeros in the place of
//! the faulting one and marks the mapping as poisoned. Whoever copied from it looks at the mark
//! afterwards and throws away what it copied.
//!
//! The handler is installed once for the process, on the alternate stack, and passes every fault
//! that is not in a guarded mapping on to the handler that was there before (Rust's own).
//!
//! Invariants
//! - a slot with a length of 0 matches no address; the length is stored last and cleared first.
//! - the handler calls nothing but async-signal-safe functions and takes no lock.
//!
//! Source: sigaction(2), signal-safety(7), mmap(2).

use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Most mappings at once; a file beyond that is read without one.
const SLOTS: usize = 4096;

struct Slot {
    taken: AtomicBool,
    start: AtomicUsize,
    len: AtomicUsize,
    poisoned: AtomicBool,
}

static GUARDED: [Slot; SLOTS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        poisoned: AtomicBool::new(false),
    }
}; SLOTS];

/// What SIGBUS did before the guard came; `None` when the guard could not be installed.
static PREVIOUS: OnceLock<Option<libc::sigaction>> = OnceLock::new();

static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);

/// The guard of one mapping, for as long as it is mapped.
pub(super) struct FaultGuard {
    slot: &'static Slot,
}

impl std::fmt::Debug for FaultGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultGuard")
            .field("poisoned", &self.is_poisoned())
            .finish()
    }
}

impl FaultGuard {
    /// Guards the mapping at these addresses. `None` when no guard can be had.
    pub(super) fn new(addresses: Range<usize>) -> Option<Self> {
        PREVIOUS.get_or_init(|| install().ok()).as_ref()?;
        let free = |slot: &&Slot| !slot.taken.swap(true, Ordering::AcqRel);
        let slot = GUARDED.iter().find(free)?;
        slot.poisoned.store(false, Ordering::Relaxed);
        slot.start.store(addresses.start, Ordering::Relaxed);
        slot.len.store(addresses.len(), Ordering::Release);
        Some(Self { slot })
    }

    /// True once any page of the mapping could not be served.
    pub(super) fn is_poisoned(&self) -> bool {
        self.slot.poisoned.load(Ordering::Acquire)
    }
}

impl Drop for FaultGuard {
    fn drop(&mut self) {
        self.slot.len.store(0, Ordering::Release);
        self.slot.taken.store(false, Ordering::Release);
    }
}

fn install() -> io::Result<libc::sigaction> {
    // SAFETY: asks for a constant of the system.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    PAGE_BYTES.store(usize::try_from(page).unwrap_or(4096), Ordering::Relaxed);
    let mut action = empty_action();
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let mut previous = empty_action();
    // SAFETY: both actions are initialised, and the handler has the type that SA_SIGINFO wants.
    let done = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) };
    if done == 0 {
        Ok(previous)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn empty_action() -> libc::sigaction {
    // SAFETY: sigaction is a plain C struct, for which all zeros is a valid value.
    unsafe { std::mem::zeroed() }
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: the kernel passes a valid siginfo to a handler installed with SA_SIGINFO.
    let info_ref = unsafe { &*info };
    // SAFETY: SIGBUS carries an address.
    let address = unsafe { info_ref.si_addr() }.addr();
    let guarded = GUARDED.iter().find(|slot| {
        let len = slot.len.load(Ordering::Acquire);
        address.wrapping_sub(slot.start.load(Ordering::Relaxed)) < len
    });
    if let Some(slot) = guarded {
        slot.poisoned.store(true, Ordering::Release);
        if replace_by_zeros(address) {
            return;
        }
    }
    pass_on(signal, info, context);
}

/// Maps a page of zeros where the fault was, so that the faulting instruction can go on.
fn replace_by_zeros(address: usize) -> bool {
    let page_bytes = PAGE_BYTES.load(Ordering::Relaxed);
    let page = std::ptr::without_provenance_mut::<libc::c_void>(address & !(page_bytes - 1));
    // Writable, for the sake of tables that are written in place.
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    // SAFETY: errno belongs to this thread; the interrupted code must find it unchanged.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the pointer is valid for this thread's life.
    let saved = unsafe { *errno };
    // SAFETY: the page lies in a guarded mapping, which nothing but volatile-like copies and atomic
    // accesses reach; mmap is a bare system call and so async-signal-safe.
    let mapped = unsafe { libc::mmap(page, page_bytes, protection, flags, -1, 0) };
    // SAFETY: as above.
    unsafe { *errno = saved };
    mapped != libc::MAP_FAILED
}

/// Does what would have happened without the guard.
fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get().and_then(Option::as_ref);
    let Some(previous) = previous.filter(|previous| {
        previous.sa_flags & libc::SA_SIGINFO != 0 && previous.sa_sigaction > libc::SIG_IGN
    }) else {
        // SAFETY: restores the default action; the instruction faults again and ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        return;
    };
    type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
    // SAFETY: with SA_SIGINFO set, `sa_sigaction` is a function of this type.
    let handler: Handler = unsafe { std::mem::transmute(previous.sa_sigaction) };
    handler(signal, info, context);
}
