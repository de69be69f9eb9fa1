//! Bytes in memory as a source: for tests, fuzzing and tools that already hold the bytes.

use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Progress, ReadAt, Wait};

/// An immutable byte vector with a name.
#[derive(Debug, Clone)]
pub struct MemoryFile {
    name: String,
    bytes: Vec<u8>,
}

impl MemoryFile {
    /// `name` is what error messages show.
    #[must_use]
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self {
            name: name.into(),
            bytes,
        }
    }
}

impl ReadAt for MemoryFile {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, offset: u64, mut dest: Dest<'_>, _wait: Wait) -> Result<Progress> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = start
            .checked_add(dest.len())
            .and_then(|end| self.bytes.get(start..end));
        let Some(bytes) = range else {
            let detail = format!("{} bytes wanted, {} are here", dest.len(), self.bytes.len());
            let error = Error::new(ErrorKind::OutOfRange, "read memory", detail);
            return Err(error.in_file(&self.name).at(offset));
        };
        dest.copy_from(bytes);
        Ok(Progress::Done)
    }
}
