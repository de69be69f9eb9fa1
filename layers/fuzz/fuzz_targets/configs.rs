//! Any bytes as an image config and as a service config.
#![no_main]

use layers::config::{ImageConfig, ServiceConfig};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drop(ImageConfig::parse(bytes));
    if let Ok(config) = ServiceConfig::parse(bytes) {
        assert!(config.log.level <= 3);
    }
});
