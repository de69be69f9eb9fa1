//! The page for Prometheus, and `obd why`, as their readers meet them.
#![cfg(test)]

mod page;
mod strict_parser;
mod why;
