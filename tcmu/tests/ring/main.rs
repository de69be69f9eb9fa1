//! The command ring against a model of the kernel's side.
#![cfg(test)]

mod kernel;
mod malformed;
mod opening;
mod order;
mod properties;
mod resetting;
mod taking;
mod threads;
