//! Container hosts with a real `target_core_user`: what its daemons serve appears as SCSI disks. One process, so
//! that VMs run as many at a time as the test runner has threads.
#![cfg(test)]

mod coexistence;
mod containers;
mod operator;
mod outage;
mod remote;
mod restart;
mod scale;
mod scene;
mod sg3;
mod shell;
mod snapshots;
mod tcmu_runner;
mod vectors;
mod writable;
