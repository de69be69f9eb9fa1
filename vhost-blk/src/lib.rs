//! overlaybd images as disks of virtual machines over vhost-user-blk.
//!
//! A request passes through the modules from top to bottom, and its answer back up:
//!
//! ```text
//! args -> serve                       one process, its disks
//!   socket -> session -> backend      one VMM after another; vhost-user messages
//!     vring -> queue                  one virtqueue: positions, order, who may touch it
//!       worker (poll_window)          takes requests, publishes answers
//!         ring -> descriptor_chain -> request (zero_ranges)
//!           answer                    data (segment_cursor) and status into guest_memory
//!             disk -> layers::Image
//!             pool -> mailbox         requests that must wait, and the way back
//! ```
//!
//! What a driver may choose about its writes is in `config_space`, `cache_mode` and
//! `cache_switch`; `control` answers `obd why` and Prometheus; `layers::WritePace` knows whether the host takes them quickly. Only `backend`, `session` and `vring` know `vhost-user-backend`.

pub mod answer;
pub mod args;
pub mod backend;
pub mod cache_mode;
pub mod cache_switch;
pub mod config_space;
pub mod control;
pub mod descriptor_chain;
pub mod disk;
pub mod features;
pub mod guest_memory;
pub mod mailbox;
pub mod poll_window;
pub mod pool;
pub mod queue;
pub mod request;
pub mod ring;
pub mod segment_cursor;
pub mod serve;
pub mod session;
pub mod status;
#[cfg(test)]
mod test_guest;
pub mod vring;
pub mod worker;
pub mod zero_ranges;
