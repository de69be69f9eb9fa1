//! ZFile.
use crate::{ReadAt, Result};
/// stub
#[derive(Debug)]
pub struct ZFile;
/// stub
pub fn detect(_: &dyn ReadAt) -> Result<bool> {
    Ok(false)
}
impl ZFile {
    /// stub
    pub fn open(s: Box<dyn ReadAt>) -> Result<Box<dyn ReadAt>> {
        Ok(s)
    }
}
