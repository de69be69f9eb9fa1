//! Images whose layers are in a registry: a real one, behind proxies that misbehave.
#![cfg(test)]

mod access;
mod faults;
mod gone;
mod log_lines;
mod many_layers;
mod support;
mod verifying;
