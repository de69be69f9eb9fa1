//! All layers of an image become one.
//!
//! image config -> **merge** -> lsmt compact -> wrapping -> output file

use super::commit::{NewLayer, NewLayerOptions};
use crate::config::{ImageConfig, ServiceConfig};
use crate::error::Result;
use crate::image::{layer_configs, lower_path, open_apart};
use crate::io::OutputFile;
use crate::lsmt::compact;

/// Merges the layers of the image, a writable one included, into `output` and publishes that.
/// `report` is told the bytes of data copied so far and in all. Blocks.
///
/// # Errors
/// `Busy` for a layer that is being written; `Config` when the output would replace a layer; those
/// of opening the layers and of [`compact::merge`].
pub fn merge(
    config: &ImageConfig,
    service: &ServiceConfig,
    output: OutputFile,
    options: &NewLayerOptions,
    report: &mut dyn FnMut(u64, u64),
) -> Result<NewLayer> {
    let lowers = layer_configs(config).iter().filter_map(lower_path);
    let upper = [config.upper.data.clone(), config.upper.index.clone()];
    for layer in lowers.chain(upper) {
        output.check_is_not(&layer)?;
    }
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
