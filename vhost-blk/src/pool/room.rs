//! How many bytes writes may hold, and those that wait until they may.
//!
//! pool -> **room**
//!
//! Invariants
//! - what is held is at most `bytes_max`, or one single request.
//! - room is given in the order it was asked for.

use std::collections::VecDeque;

use super::Job;

/// Which way the bytes of a request go. Each has room of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the disk.
    Read,
    /// To the disk.
    Write,
}

/// A job that waits for room.
#[derive(Debug)]
pub(super) struct Waiting {
    /// When it came.
    pub(super) number: u64,
    /// What it asks for.
    pub(super) bytes: usize,
    pub(super) job: Job,
}

/// Room for the bytes of writes.
#[derive(Debug)]
pub(super) struct Room {
    waiting: VecDeque<Waiting>,
    bytes_held: usize,
    bytes_max: usize,
}

impl Room {
    /// Empty.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            waiting: VecDeque::new(),
            bytes_held: 0,
            bytes_max,
        }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.bytes_held == 0 || self.bytes_held + bytes <= self.bytes_max
    }

    /// Takes `bytes` if they fit and nobody waits; did it?
    pub(super) fn try_take(&mut self, bytes: usize) -> bool {
        let taken = self.waiting.is_empty() && self.fits(bytes);
        if taken {
            self.bytes_held += bytes;
        }
        taken
    }

    /// Bytes that were taken are free again.
    pub(super) fn give_back(&mut self, bytes: usize) {
        self.bytes_held -= bytes;
    }

    /// Has `job` wait for `bytes`.
    pub(super) fn push(&mut self, number: u64, bytes: usize, job: Job) {
        self.waiting.push_back(Waiting { number, bytes, job });
    }

    /// Jobs that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Number of the first job that waits, when there is room for it.
    pub(super) fn startable(&self) -> Option<u64> {
        let first = self.waiting.front()?;
        self.fits(first.bytes).then_some(first.number)
    }

    /// Takes the first job that waits, and the bytes it asked for, whether they fit or not.
    pub(super) fn pop(&mut self) -> Option<(Job, usize)> {
        let Waiting { bytes, job, .. } = self.waiting.pop_front()?;
        self.bytes_held += bytes;
        Some((job, bytes))
    }

    /// Takes all jobs that wait, without room.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = Job> {
        self.waiting.drain(..).map(|waiting| waiting.job)
    }
}
