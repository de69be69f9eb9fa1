//! The tar wrapper around a layer.
