//! Every checksum and every rule of a layer file or of all layers of an image.

use std::path::Path;

use super::layer_file::starts_a_layer;
use crate::config::{ImageConfig, ServiceConfig};
use crate::error::{Error, Result};
use crate::image::{Image, layer_configs, lower_path};
use crate::io::Access;
use crate::io::LocalFile;
use crate::lsmt::Layer;
use crate::read_at::ReadAt;
use crate::tar;
use crate::zfile::{self, ZFile};

const CHUNK_BYTES: usize = 1 << 20;

/// The outcome for one file.
#[derive(Debug)]
pub struct FileReport {
    /// The file.
    pub name: String,
    /// What is wrong and where; the first 100 faults.
    pub faults: Vec<Error>,
    /// Number of faults.
    pub fault_count: usize,
    /// Data bytes read and, where the file has checksums, checked.
    pub checked_bytes: u64,
    /// The file has a checksum for every block. Without, only structures could be checked.
    pub has_checksums: bool,
}

impl FileReport {
    /// True when nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.fault_count == 0
    }

    fn new(path: &Path) -> Self {
        Self {
            name: path.display().to_string(),
            faults: Vec::new(),
            fault_count: 0,
            checked_bytes: 0,
            has_checksums: false,
        }
    }

    fn add(&mut self, error: Error) {
        self.fault_count += 1;
        self.faults.push(error.in_file(&self.name));
    }
}

/// Verifies one layer file or bare zfile. `report` is told the bytes read so far and in all.
/// Blocking. What is wrong is part of the result, not an error.
pub fn verify_file(path: &Path, report: &mut dyn FnMut(u64, u64)) -> FileReport {
    let mut found = FileReport::new(path);
    if let Err(error) = verify_stages(path, &mut found, report) {
        found.add(error);
    }
    found
}

/// Verifies each local layer of an image, then that they stack. Blocking.
pub fn verify_config(
    path: &Path,
    service: &ServiceConfig,
    report: &mut dyn FnMut(u64, u64),
) -> Vec<FileReport> {
    let mut whole = FileReport::new(path);
    let config = match ImageConfig::load(path) {
        Ok(config) => config,
        Err(error) => {
            whole.add(error);
            return vec![whole];
        }
    };
    let paths = layer_configs(&config).iter().filter_map(lower_path);
    let mut reports: Vec<_> = paths.map(|layer| verify_file(&layer, report)).collect();
    let all_here = reports.len() == layer_configs(&config).len();
    // A layer that is damaged was reported with its file; opening would only repeat that.
    if !all_here || reports.iter().all(FileReport::is_sound) {
        match Image::open_layers(&config, service, Access::Read) {
            Ok(_) => return reports,
            Err(error) => whole.add(error),
        }
        reports.push(whole);
    }
    reports
}

fn verify_stages(
    path: &Path,
    found: &mut FileReport,
    report: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let payload = tar::unwrap(Box::new(LocalFile::open(path)?))?;
    let decoded: Box<dyn ReadAt> = if zfile::detect(&*payload)? {
        let zfile = ZFile::open(payload)?;
        verify_blocks(&zfile, found, report)?;
        Box::new(zfile)
    } else {
        if !starts_a_layer(&*payload)? {
            return Err(Error::corrupt(
                "verify file",
                "no zfile or LSMT header: not a layer file",
            ));
        }
        read_all(&*payload, found, report)?;
        payload
    };
    // A damaged block was reported; what depends on it would only repeat that.
    if found.is_sound() && starts_a_layer(&*decoded)? {
        drop(Layer::open(decoded)?);
    }
    Ok(())
}

fn verify_blocks(
    zfile: &ZFile,
    found: &mut FileReport,
    report: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let size = zfile.size();
    let block_bytes = u64::from(zfile.block_bytes());
    let blocks = zfile.verify_all(|done| report((done as u64 * block_bytes).min(size), size))?;
    found.has_checksums = zfile.has_block_crc();
    found.checked_bytes = size;
    found.fault_count += blocks.fault_count;
    found
        .faults
        .extend(blocks.faults.into_iter().map(|fault| fault.error));
    Ok(())
}

/// A layer without compression has no checksums: at least every byte is readable.
fn read_all(
    source: &dyn ReadAt,
    found: &mut FileReport,
    report: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let size = source.size();
    let mut at = 0;
    while at < size {
        let len = usize::try_from(size - at)
            .unwrap_or(usize::MAX)
            .min(CHUNK_BYTES);
        source.read_exact_at(at, chunk.split_at_mut(len).0)?;
        at += len as u64;
        report(at, size);
    }
    found.checked_bytes = size;
    Ok(())
}
