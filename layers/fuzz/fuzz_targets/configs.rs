//! Any bytes as an image config and as a service config.
#![no_main]

use layers::config::{ImageConfig, ServiceConfig};
use layers::limits::LAYERS_MAX;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = ImageConfig::parse(bytes) {
        assert!(config.lowers.len() <= LAYERS_MAX);
    }
    if let Ok(config) = ServiceConfig::parse(bytes) {
        assert!(config.log_level <= 3);
    }
});
