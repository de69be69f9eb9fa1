//! The cache on disk: what it serves, what it fetches, what it survives.
#![cfg(test)]

mod admin;
mod damage;
mod fetching;
mod limits;
mod processes;
mod reading;
mod support;
