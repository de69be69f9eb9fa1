//! The tar wrapper around a layer.
use crate::{ReadAt, Result};
/// stub
pub fn unwrap(s: Box<dyn ReadAt>) -> Result<Box<dyn ReadAt>> {
    Ok(s)
}
