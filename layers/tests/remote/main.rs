//! Images whose layers are in a registry: a real one, behind proxies that misbehave.
#![cfg(test)]

mod access;
mod faults;
mod gone;
mod many_layers;
mod support;
