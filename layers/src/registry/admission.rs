//! Who may ask now: background requests make room for guests.
//!
//! transfer -> **admission**

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::range_source::Urgency;

/// Background requests at once while a guest waits for one of its own.
const BESIDE_GUESTS_MAX: usize = 4;
/// Background requests at once otherwise.
const ALONE_MAX: usize = 16;

/// Requests at once to one host, of either kind.
pub(super) const PER_HOST_MAX: usize = 64;

/// Counts the requests that are under way.
#[derive(Debug, Default)]
pub(super) struct Admission {
    running: Mutex<Running>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Running {
    guest: usize,
    background: usize,
}

impl Running {
    fn count(&mut self, urgency: Urgency) -> &mut usize {
        match urgency {
            Urgency::Guest => &mut self.guest,
            Urgency::Background => &mut self.background,
        }
    }

    fn admits(&self, urgency: Urgency) -> bool {
        match (urgency, self.guest) {
            (Urgency::Guest, _) => true,
            (Urgency::Background, 0) => self.background < ALONE_MAX,
            (Urgency::Background, _) => self.background < BESIDE_GUESTS_MAX,
        }
    }
}

/// One request under way; ends when dropped.
#[derive(Debug)]
pub(super) struct Admitted<'a> {
    admission: &'a Admission,
    urgency: Urgency,
}

impl Admission {
    /// Waits until such a request may run. Guests never wait.
    pub(super) async fn enter(&self, urgency: Urgency) -> Admitted<'_> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(admitted) = self.try_enter(urgency) {
                return admitted;
            }
            changed.await;
        }
    }

    fn try_enter(&self, urgency: Urgency) -> Option<Admitted<'_>> {
        let mut running = self.running();
        if !running.admits(urgency) {
            return None;
        }
        *running.count(urgency) += 1;
        Some(Admitted {
            admission: self,
            urgency,
        })
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        *self.admission.running().count(self.urgency) -= 1;
        self.admission.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_always_admitted_and_leave_the_background_little() {
        let admission = Admission::default();
        let enter = |urgency| admission.try_enter(urgency);
        let mut background: Vec<_> = (0..ALONE_MAX)
            .map(|_| enter(Urgency::Background).unwrap())
            .collect();
        assert!(enter(Urgency::Background).is_none());
        let guests: Vec<_> = (0..100).map(|_| enter(Urgency::Guest).unwrap()).collect();
        background.truncate(BESIDE_GUESTS_MAX);
        assert!(enter(Urgency::Background).is_none());
        drop(guests);
        background.push(enter(Urgency::Background).unwrap());
    }

    #[test]
    fn who_waits_is_let_in_when_another_leaves() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(async {
            let admission = std::sync::Arc::new(Admission::default());
            let mut held = Vec::new();
            for _ in 0..ALONE_MAX {
                held.push(admission.enter(Urgency::Background).await);
            }
            let others = std::sync::Arc::clone(&admission);
            let waiting = tokio::spawn(async move {
                drop(others.enter(Urgency::Background).await);
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            held.pop();
            waiting.await.unwrap();
        });
    }
}
