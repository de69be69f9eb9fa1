//! What a device is called, and what the kernel lets a config's path be.
//!
//! attach -> **names**
//!
//! Source: Linux `TCMU_CONFIG_LEN`, and the options of `control`, which end at a comma or newline.

use std::path::Path;

use sha2::{Digest, Sha256};

use crate::tcmu_names::HANDLER;
use crate::{Error, ErrorKind, Result};

/// Bytes that the kernel keeps of `dev_config`.
const CONFIG_LEN: usize = 255;
const NAME_LEN: usize = 64;

/// The `dev_config` of a device: `overlaybd/<absolute path>[;<dev_id>]`.
pub(super) fn dev_config(config: &Path, dev_id: Option<&str>) -> Result<String> {
    let refuse = |detail: String| {
        let error = Error::new(ErrorKind::Config, "attach", detail);
        Err(error.in_file(config.display().to_string()))
    };
    let Some(path) = config.to_str() else {
        return refuse("the path is not UTF-8: give the config another path".to_owned());
    };
    let is_bad = |letter: char| matches!(letter, ',' | ';' | '\n') || letter.is_control();
    if path.contains(is_bad) {
        let detail = "the kernel takes no comma, semicolon or newline in the path: \
            give the config another path";
        return refuse(detail.to_owned());
    }
    let mut whole = format!("{HANDLER}/{path}");
    if let Some(dev_id) = dev_id {
        if dev_id.is_empty() || dev_id.contains(is_bad) || dev_id.contains(char::is_whitespace) {
            let detail = "--dev-id must not be empty nor have commas, semicolons or spaces";
            return refuse(detail.to_owned());
        }
        whole.push(';');
        whole.push_str(dev_id);
    }
    match whole.len() {
        0..=CONFIG_LEN => Ok(whole),
        len => refuse(format!(
            "{whole:?} has {len} bytes, the kernel takes {CONFIG_LEN}: give the config a shorter path"
        )),
    }
}

/// The name of a device: the given one, or one that follows from the path of its config alone, so that
/// no image is attached twice by chance.
pub(super) fn device_name(given: Option<&str>, config: &Path) -> Result<String> {
    let is_fine = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    if let Some(name) = given {
        if name.is_empty()
            || name.len() > NAME_LEN
            || name.starts_with('.')
            || !name.chars().all(is_fine)
        {
            let detail = format!(
                "--name {name:?}: expected 1 to {NAME_LEN} letters, digits, '-', '_' or '.', no '.' first"
            );
            return Err(Error::new(ErrorKind::Config, "attach", detail));
        }
        return Ok(name.to_owned());
    }
    let parent = config
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default();
    let parent = parent.to_string_lossy();
    let readable: String = parent
        .chars()
        .filter(|letter| is_fine(*letter))
        .take(32)
        .collect();
    let readable = readable.trim_start_matches('.');
    let hash = hex(config.as_os_str().as_encoded_bytes(), 12);
    match readable {
        "" => Ok(hash),
        _ => Ok(format!("{readable}-{hash}")),
    }
}

/// The `attempt`th loopback name of a device: `naa.199` and 13 hex digits.
pub(super) fn naa(device: &str, attempt: u32) -> String {
    let seed = format!("{device}/{attempt}");
    format!("naa.199{}", hex(seed.as_bytes(), 13))
}

fn hex(bytes: &[u8], digits: usize) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes).iter().take(digits) {
        text.push_str(&format!("{byte:02x}"));
    }
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_the_kernel_would_cut_is_refused() {
        let long = format!("/{}", "x".repeat(CONFIG_LEN - HANDLER.len() - 2));
        assert_eq!(
            dev_config(Path::new(&long), None).unwrap().len(),
            CONFIG_LEN
        );
        assert!(dev_config(Path::new(&format!("{long}x")), None).is_err());
        for bad in ["/a,b", "/a\nb", "/a;b"] {
            assert!(dev_config(Path::new(bad), None).is_err(), "{bad:?}");
        }
        assert_eq!(
            dev_config(Path::new("/a b"), Some("7")).unwrap(),
            "overlaybd//a b;7"
        );
        assert!(dev_config(Path::new("/a"), Some("7,8")).is_err());
    }

    #[test]
    fn names_are_stable_unique_and_free_of_slashes() {
        let name = |path: &str| device_name(None, Path::new(path)).unwrap();
        assert_eq!(name("/var/web/c.json"), name("/var/web/c.json"));
        assert_ne!(name("/var/web/c.json"), name("/srv/web/c.json"));
        assert!(name("/var/web/c.json").starts_with("web-"));
        assert!(device_name(Some("a/b"), Path::new("/c")).is_err());
        assert!(device_name(Some(".."), Path::new("/c")).is_err());
        assert_ne!(naa("a", 0), naa("a", 1));
        assert_eq!(naa("a", 0).len(), "naa.".len() + 16);
    }
}
