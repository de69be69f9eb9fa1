//! `overlaybd-tcmu`: serves overlaybd images to the host's kernel.

fn main() {}
