//! Reads that wait, and what those hold that run: a share for every disk, the rest to who asks first.
//!
//! pool -> **reads**
//!
//! A read may wait for an origin that is dead, for days. It must hold up no other disk.
//!
//! Invariants
//! - a disk whose reads run less than its sure share starts another one, whatever others hold.
//! - beyond the shares at most `running_max` reads run, which hold at most `bytes_max`.
//! - reads of one disk start in the order in which they came.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::Job;
use super::room::Waiting;
use crate::disk::Disk;

/// This part of all is sure to every disk.
const SHARE: usize = 4;

/// The reads of one disk. It is listed while there are any.
#[derive(Debug)]
struct Lane {
    disk: Weak<Disk>,
    waiting: VecDeque<Waiting>,
    running: usize,
    /// Of reads that run, or whose bytes nobody has taken yet.
    bytes_held: usize,
}

/// The reads of all disks.
#[derive(Debug)]
pub(super) struct Reads {
    lanes: Vec<Lane>,
    waiting: usize,
    running: usize,
    running_max: usize,
    bytes_held: usize,
    bytes_max: usize,
}

impl Reads {
    /// None.
    pub(super) fn new(running_max: usize, bytes_max: usize) -> Self {
        Self {
            lanes: Vec::new(),
            waiting: 0,
            running: 0,
            running_max,
            bytes_held: 0,
            bytes_max,
        }
    }

    fn lane(&mut self, disk: &Weak<Disk>) -> Option<&mut Lane> {
        let is_same = |lane: &&mut Lane| lane.disk.ptr_eq(disk);
        self.lanes.iter_mut().find(is_same)
    }

    /// Has `job` wait for `bytes`.
    pub(super) fn push(&mut self, number: u64, bytes: usize, job: Job) {
        self.waiting += 1;
        let disk = Arc::downgrade(&job.disk);
        let waiting = Waiting { number, bytes, job };
        if let Some(lane) = self.lane(&disk) {
            lane.waiting.push_back(waiting);
            return;
        }
        self.lanes.push(Lane {
            disk,
            waiting: VecDeque::from([waiting]),
            running: 0,
            bytes_held: 0,
        });
    }

    /// Jobs that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Most reads that may run with the disks there are.
    pub(super) fn running_max(&self) -> usize {
        self.running_max + self.lanes.len().saturating_sub(1) * self.running_sure()
    }

    fn running_sure(&self) -> usize {
        self.running_max.div_ceil(SHARE)
    }

    fn may_start(&self, lane: &Lane, bytes: usize) -> bool {
        let fits = |held: usize, max: usize| held == 0 || held + bytes <= max;
        let has_thread = self.running < self.running_max || lane.running < self.running_sure();
        let has_room =
            fits(self.bytes_held, self.bytes_max) || fits(lane.bytes_held, self.bytes_max / SHARE);
        has_thread && has_room
    }

    /// Number of the oldest job that may start, and the position of its lane.
    fn first(&self) -> Option<(u64, usize)> {
        let fronts = self.lanes.iter().enumerate().filter_map(|(place, lane)| {
            let first = lane.waiting.front()?;
            let may_start = self.may_start(lane, first.bytes);
            may_start.then_some((first.number, place))
        });
        fronts.min()
    }

    /// Number of the oldest job that may start.
    pub(super) fn startable(&self) -> Option<u64> {
        self.first().map(|(number, _)| number)
    }

    /// Takes the oldest job that may start, and the bytes it asked for.
    pub(super) fn pop(&mut self) -> Option<(Job, usize)> {
        let (_, place) = self.first()?;
        let lane = self.lanes.get_mut(place)?;
        let Waiting { bytes, job, .. } = lane.waiting.pop_front()?;
        lane.running += 1;
        lane.bytes_held += bytes;
        self.waiting -= 1;
        self.running += 1;
        self.bytes_held += bytes;
        Some((job, bytes))
    }

    /// A read of `disk` does not run any more.
    pub(super) fn end(&mut self, disk: &Weak<Disk>) {
        self.running -= 1;
        if let Some(lane) = self.lane(disk) {
            lane.running -= 1;
        }
        self.forget_unused();
    }

    /// Bytes that a read of `disk` held are free again.
    pub(super) fn give_back(&mut self, disk: &Weak<Disk>, bytes: usize) {
        self.bytes_held -= bytes;
        if let Some(lane) = self.lane(disk) {
            lane.bytes_held -= bytes;
        }
        self.forget_unused();
    }

    fn forget_unused(&mut self) {
        self.lanes
            .retain(|lane| lane.running > 0 || lane.bytes_held > 0 || !lane.waiting.is_empty());
    }

    /// Takes all jobs that wait, without room.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = Job> {
        self.waiting = 0;
        let lanes = self.lanes.iter_mut();
        lanes.flat_map(|lane| lane.waiting.drain(..).map(|waiting| waiting.job))
    }
}
