//! New, empty writable layers.
//!
//! tool | image -> **create** -> files
//!
//! Source: format reference 1.6, 1.7, 10.1.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::open::DATA_START;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{OutputFile, OutputOptions};
use crate::limits::{DISK_BYTES_MAX, SECTOR_BYTES};
use crate::lsmt::format::{HEADER_BYTES, Record};
use crate::lsmt::uuid::Uuid;

const OP: &str = "create layer";

/// How a writable layer keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpperKind {
    /// A data file in the order of the writes, and an index log.
    #[default]
    AppendOnly,
    /// One sparse file like the disk.
    Sparse,
}

/// What a new layer is.
#[derive(Debug, Clone, Copy, Default)]
pub struct CreateOptions {
    /// Its kind.
    pub kind: UpperKind,
    /// Size of the disk in bytes; 0 = that of the layers it is stacked on.
    pub virtual_size_bytes: u64,
    /// Name of the layer below.
    pub parent_uuid: Uuid,
}

/// Makes both files of a layer; neither may exist. The layer gets a random name, which is
/// returned. It survives a power cut from then on. Blocking.
///
/// # Errors
/// `Exists` for a file that exists; `Config` for a size that is no multiple of 512; `NotFound`,
/// `NoSpace`, `Io`. Nothing is left then.
pub fn create(data: &Path, index: &Path, options: CreateOptions) -> Result<Uuid> {
    let size = options.virtual_size_bytes;
    if !size.is_multiple_of(SECTOR_BYTES) || size > DISK_BYTES_MAX {
        let detail = format!("virtual size {size} is no multiple of {SECTOR_BYTES}, or too large");
        return Err(Error::new(ErrorKind::Config, OP, detail));
    }
    let is_sparse = options.kind == UpperKind::Sparse;
    let uuid = Uuid::random().map_err(|source| Error::io(OP, source))?;
    let header = |is_data_file: bool| Record {
        flags: Record::writable_flags(is_data_file, is_sparse),
        index_offset_bytes: if is_data_file { 0 } else { DATA_START },
        index_entries: 0,
        virtual_size_bytes: size,
        uuid,
        parent_uuid: options.parent_uuid,
        user_tag: Vec::new(),
    };
    let data_size = if is_sparse {
        DATA_START + size
    } else {
        DATA_START
    };
    let files = NewPair::create(data, index)?;
    fill(&files.data, &header(true).encode(), data_size)?;
    match is_sparse {
        true => fill(&files.index, &[], 0)?,
        false => fill(&files.index, &header(false).encode(), HEADER_BYTES as u64)?,
    }
    files.publish()?;
    Ok(uuid)
}

/// Makes a raw disk image of `bytes` bytes, a hole, and an empty index file.
///
/// # Errors
/// As [`create`].
pub fn create_raw(data: &Path, index: &Path, bytes: u64) -> Result<()> {
    let files = NewPair::create(data, index)?;
    fill(&files.data, &[], bytes)?;
    files.publish()
}

/// Two files that appear when they are whole.
struct NewPair {
    data: OutputFile,
    index: OutputFile,
}

impl NewPair {
    fn create(data: &Path, index: &Path) -> Result<Self> {
        Ok(Self {
            data: OutputFile::create(data, OutputOptions::default())?,
            index: OutputFile::create(index, OutputOptions::default())?,
        })
    }

    fn publish(self) -> Result<()> {
        let index = self.index.path().to_owned();
        self.index.publish()?;
        // The data file comes last: an index alone is no layer.
        let published = self.data.publish();
        if published.is_err()
            && let Err(error) = std::fs::remove_file(&index)
        {
            log::warn!("{} stays behind: {error}", index.display());
        }
        published
    }
}

fn fill(output: &OutputFile, header: &[u8], size: u64) -> Result<()> {
    let mut file = output.file();
    file.write_all(header)
        .and_then(|()| file.set_len(size))
        .map_err(|source| Error::io(OP, source).in_file(output.path().display().to_string()))
}

impl Uuid {
    /// A random name: version 4.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let bits = u128::from_be_bytes(bytes);
        let version = bits & !(0xF << 76) | 4 << 76;
        Ok(Self::from_bits(version & !(3 << 62) | 2 << 62))
    }
}
