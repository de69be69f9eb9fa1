//! `overlaybd-vhost-blk`.
fn main() {}
