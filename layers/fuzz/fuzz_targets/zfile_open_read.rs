//! Any bytes as a zfile.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| layers_fuzz::open_and_read(bytes));
