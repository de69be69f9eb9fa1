//! Where the process tells how it goes, and takes orders: Prometheus, and snapshots.
//!
//! serve -> **control** -> exporter, snapshot API
//!
//! Source: format reference 9.1, 9.2.
