//! All layers of an image become one.
//!
//! image config -> **merge** -> lsmt compact -> wrapping -> output file

use super::commit::{NewLayer, NewLayerOptions};
use super::layer_file::check_is_no_layer;
use crate::config::ImageConfig;
use crate::error::Result;
use crate::image::open_apart;
use crate::io::OutputFile;
use crate::lsmt::compact;
use crate::service::Service;

/// Merges the layers of the image, a writable one included, into `output` and publishes that.
/// `report` is told the bytes of data copied so far and in all. Blocks.
///
/// # Errors
/// `Busy` for a layer that is being written; `Config` when the output would replace a layer; those
/// of opening the layers and of [`compact::merge`].
pub fn merge(
    config: &ImageConfig,
    service: &Service,
    output: OutputFile,
    options: &NewLayerOptions,
    report: &mut dyn FnMut(u64, u64),
) -> Result<NewLayer> {
    check_is_no_layer(&output, config)?;
    let (lowers, upper) = open_apart(config, service)?;
    let (layer, file_bytes) = options.wrapping.write(&output, |sink| {
        let written = match upper {
            Some(upper) => compact::flatten(lowers, upper, &options.layer, sink, report),
            None => compact::merge(lowers, &options.layer, sink, report),
        };
        Ok(written?.1)
    })?;
    output.publish()?;
    Ok(NewLayer { layer, file_bytes })
}
