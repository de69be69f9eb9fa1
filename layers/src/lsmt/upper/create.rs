//! New, empty writable layers.
//!
//! tool | image -> **create** -> files
//!
//! Source: format reference 1.6, 1.7, 10.1.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::open::DATA_START;
use crate::error::{Error, ErrorKind, Result};
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
/// `Config` for a file that exists or a size that is no multiple of 512; `NotFound`, `NoSpace`,
/// `Io`. What was made is removed then.
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
    let data_file = NewFile::create(data)?;
    let index_file = NewFile::create(index)?;
    data_file.fill(&header(true).encode(), data_size)?;
    match is_sparse {
        true => index_file.fill(&[], 0)?,
        false => index_file.fill(&header(false).encode(), HEADER_BYTES as u64)?,
    }
    index_file.keep()?;
    data_file.keep()?;
    Ok(uuid)
}

/// Makes a raw disk image of `bytes` bytes, a hole, and an empty index file.
///
/// # Errors
/// As [`create`].
pub fn create_raw(data: &Path, index: &Path, bytes: u64) -> Result<()> {
    let (data, index) = (NewFile::create(data)?, NewFile::create(index)?);
    data.fill(&[], bytes)?;
    index.keep()?;
    data.keep()
}

/// A file that is removed again unless it is kept.
struct NewFile {
    file: File,
    path: PathBuf,
    kept: bool,
}

impl NewFile {
    fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => {
                    let detail = "exists already, a layer is never overwritten";
                    Error::new(ErrorKind::Config, OP, detail).in_file(path.display().to_string())
                }
                _ => failed(path, source),
            })?;
        Ok(Self {
            file,
            path: path.to_owned(),
            kept: false,
        })
    }

    fn fill(&self, header: &[u8], size: u64) -> Result<()> {
        (&self.file)
            .write_all(header)
            .and_then(|()| self.file.set_len(size))
            .map_err(|source| failed(&self.path, source))
    }

    /// The file and its name are on the device.
    fn keep(mut self) -> Result<()> {
        let parent = self.path.parent();
        let parent = parent.filter(|parent| !parent.as_os_str().is_empty());
        self.file
            .sync_all()
            .and_then(|()| File::open(parent.unwrap_or(Path::new(".")))?.sync_all())
            .map_err(|source| failed(&self.path, source))?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!("{} stays behind: {error}", self.path.display());
        }
    }
}

fn failed(path: &Path, source: io::Error) -> Error {
    Error::io(OP, source).in_file(path.display().to_string())
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
