//! The registry client against servers that behave and servers that do not.
#![cfg(test)]

mod accelerator;
mod auth;
mod credentials;
mod failures;
mod proxy;
mod ranges;
mod redirects;
mod secrets;
mod server;
mod support;
mod tls;
