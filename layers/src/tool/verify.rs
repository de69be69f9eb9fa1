//! Every checksum and every rule of a layer file or of all layers of an image.

use std::ops::Range;
use std::path::Path;

use super::layer_file::{WritablePart, starts_a_layer, writable_part};
use crate::config::{ImageConfig, LowerConfig, UpperConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, layer_configs, lower_path, open_apart};
use crate::io::Access;
use crate::io::LocalFile;
use crate::limits::SECTOR_BYTES;
use crate::lsmt::{Layer, upper};
use crate::read_at::ReadAt;
use crate::service::Service;
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

/// Verifies each layer of an image, the writable one and those in a registry included, then that they
/// stack. What is not on this host is fetched. Blocking.
pub fn verify_config(
    path: &Path,
    service: &Service,
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
    if !all_here {
        reports.extend(verify_remote(&config, service, report));
    }
    if config.upper.is_present() && config.upper.target.as_os_str().is_empty() {
        reports.push(verify_upper(&config.upper, report));
    }
    // A layer that is damaged was reported with its file; opening would only repeat that.
    if reports.iter().all(FileReport::is_sound) {
        match Image::open_layers(&config, service, Access::Read) {
            Ok(_) => return reports,
            Err(error) => whole.add(error),
        }
        reports.push(whole);
    }
    reports
}

/// Reads all data of the layers that are not on this host.
fn verify_remote(
    config: &ImageConfig,
    service: &Service,
    report: &mut dyn FnMut(u64, u64),
) -> Vec<FileReport> {
    let lowers = layer_configs(config);
    let of_lower = |lower: &LowerConfig| FileReport::new(Path::new(&lower.digest));
    let is_remote = |lower: &&LowerConfig| lower_path(lower).is_none();
    match open_apart(config, service) {
        Ok((layers, _)) => {
            let pairs = lowers.iter().zip(&layers);
            let remote = pairs.filter(|(lower, _)| is_remote(lower));
            let verify = |(lower, layer): (&LowerConfig, &Layer)| {
                let mut found = of_lower(lower);
                found.has_checksums = layer.source().is_checked();
                if let Err(error) = read_mapped(layer, &mut found, report) {
                    found.add(error);
                }
                found
            };
            remote.map(verify).collect()
        }
        Err(error) => {
            let mut found = lowers.iter().find(is_remote).map(of_lower);
            if let Some(found) = &mut found {
                found.add(error);
            }
            found.into_iter().collect()
        }
    }
}

/// Replays the log and reads all data that it maps to.
fn verify_upper(config: &UpperConfig, report: &mut dyn FnMut(u64, u64)) -> FileReport {
    let mut found = FileReport::new(&config.data);
    let layer = upper::open_read_only(&config.data, &config.index);
    if let Err(error) = layer.and_then(|layer| read_mapped(&layer, &mut found, report)) {
        found.add(error);
    }
    found
}

fn verify_stages(
    path: &Path,
    found: &mut FileReport,
    report: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    if !matches!(writable_part(path)?, None | Some(WritablePart::Empty)) {
        let detail = "a file of a writable layer: verify a config that has it as upper";
        return Err(Error::new(ErrorKind::Config, "verify file", detail));
    }
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
    let size = source.size();
    read_range(source, 0..size, |at| report(at, size))?;
    found.checked_bytes = size;
    Ok(())
}

fn read_mapped(
    layer: &Layer,
    found: &mut FileReport,
    report: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let (mut done, size) = (0, layer.data_bytes());
    for mapping in layer.mappings().iter().filter(|data| !data.is_zeroed()) {
        let start = mapping.moffset() * SECTOR_BYTES;
        let end = mapping.moffset_end() * SECTOR_BYTES;
        read_range(layer.source(), start..end, |at| {
            report(done + at - start, size);
        })?;
        done += end - start;
    }
    found.checked_bytes = size;
    Ok(())
}

/// Reads it in chunks; `done` is told where each one ended.
fn read_range(source: &dyn ReadAt, range: Range<u64>, mut done: impl FnMut(u64)) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = range.start;
    while at < range.end {
        let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
        let chunk = chunk.split_at_mut(left.min(CHUNK_BYTES)).0;
        source.read_exact_at(at, chunk)?;
        at += chunk.len() as u64;
        done(at);
    }
    Ok(())
}
