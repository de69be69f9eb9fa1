//! A file in memory, for tests, fuzzing and small files that are at hand already.
//!
//! image -> lsmt -> zfile -> tar -> **memory**

use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Progress, ReadAt, Wait};

/// Bytes that are read like a file. A read never waits.
#[derive(Debug)]
pub struct MemoryFile {
    name: String,
    bytes: Vec<u8>,
}

impl MemoryFile {
    /// `name` is what error messages call these bytes.
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
        let wanted = usize::try_from(offset)
            .ok()
            .and_then(|start| self.bytes.get(start..start.checked_add(dest.len())?));
        let Some(wanted) = wanted else {
            let detail = format!("{} bytes wanted, the file has {}", dest.len(), self.size());
            return Err(Error::new(ErrorKind::OutOfRange, "read memory", detail)
                .in_file(&self.name)
                .at(offset));
        };
        dest.copy_from(wanted);
        Ok(Progress::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_past_the_end_is_out_of_range() {
        let file = MemoryFile::new("m", b"0123456789".to_vec());
        let mut buf = [0; 4];
        file.read_exact_at(6, &mut buf).unwrap();
        assert_eq!(&buf, b"6789");
        for offset in [7, 11, u64::MAX] {
            let error = file.read_exact_at(offset, &mut buf).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange);
        }
    }
}
