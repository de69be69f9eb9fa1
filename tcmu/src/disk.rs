//! One disk as the command ring sees it: an image, what SCSI tells of it, a place to complain.
//!
//! dispatch, execute -> **disk** -> image

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use layers::config::ImageConfig;
use layers::metrics::DiskMetrics;
use layers::tcmu_names::UioName;
use layers::{Access, Complaints, Image, Result, Service, WritePace};

use crate::scsi::{self, limits::BLOCK_BYTES};

/// One disk.
#[derive(Debug)]
pub(crate) struct Disk {
    image: Image,
    config: PathBuf,
    name: String,
    facts: scsi::Disk,
    pace: WritePace,
    complaints: Complaints,
    metrics: Arc<DiskMetrics>,
    read_retry: Duration,
}

impl Disk {
    /// Opens the image of the device `name`, whose commands move up to `transfer_blocks_max` blocks, and
    /// writes its result file. Blocks.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub(crate) fn open(
        name: &UioName,
        serial: String,
        transfer_blocks_max: u32,
        service: &Service,
    ) -> Result<Self> {
        let image = Image::open(&name.config, service, Access::Write)?;
        let read_retry = ImageConfig::load(&name.config)?
            .read_retry_seconds
            .map_or(service.config().read_retry, Duration::from_secs);
        let path = name.config.display().to_string();
        Ok(Self {
            facts: scsi::Disk {
                blocks: image.virtual_size() / BLOCK_BYTES,
                is_writable: image.is_writable(),
                serial,
                description: name.handler_config.clone(),
                transfer_blocks_max,
            },
            metrics: service.metrics().disk(&path, image.journal()),
            config: name.config.clone(),
            name: format!("{} ({path})", name.device),
            image,
            pace: WritePace::by_ticks(),
            complaints: Complaints::default(),
            read_retry,
        })
    }

    /// What messages call it: the kernel's name of the device, and the config.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The image behind it.
    #[must_use]
    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// The file that describes the image.
    #[must_use]
    pub(crate) fn config(&self) -> &std::path::Path {
        &self.config
    }

    /// What SCSI commands are checked against and answered from.
    #[must_use]
    pub(crate) fn facts(&self) -> &scsi::Disk {
        &self.facts
    }

    /// How writes have gone lately.
    #[must_use]
    pub(crate) fn pace(&self) -> &WritePace {
        &self.pace
    }

    /// What the host does with it.
    #[must_use]
    pub(crate) fn metrics(&self) -> &Arc<DiskMetrics> {
        &self.metrics
    }

    /// How long a read that the host's own disk refuses is tried again.
    #[must_use]
    pub(crate) fn read_retry(&self) -> Duration {
        self.read_retry
    }

    /// Logs a failed or senseless command, at most one a second.
    #[cold]
    pub(crate) fn report(&self, what: fmt::Arguments<'_>) {
        self.complaints.report(&self.name, what);
    }
}
