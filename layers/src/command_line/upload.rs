//! Options about uploads, which this version does not do: known, so that they are refused in
//! words.
//!
//! Source: format reference 10.2, 10.4.

use std::path::PathBuf;

use super::cli11::Failure;

/// The line on stderr where callers find the digest of what was uploaded: nothing was.
pub const NO_DIGEST: &str = "";

/// `--upload` and what goes with it.
#[derive(Debug, Clone, clap::Args)]
pub struct UploadArgs {
    /// Upload while compressing (not supported by this version)
    #[arg(long, value_name = "URL")]
    upload: Option<String>,
    #[arg(
        long = "upload_bs",
        value_name = "KIB",
        default_value_t = 262_144,
        hide = true
    )]
    upload_kib: u64,
    #[arg(long = "cred_file_path", value_name = "FILE", hide = true)]
    credentials: Option<PathBuf>,
    #[arg(long = "tls_key_path", value_name = "FILE", hide = true)]
    tls_key: Option<PathBuf>,
    #[arg(long = "tls_cert_path", value_name = "FILE", hide = true)]
    tls_certificate: Option<PathBuf>,
}

impl UploadArgs {
    /// Goes on only when no upload is asked for.
    ///
    /// # Errors
    /// When one is.
    pub fn refuse(&self) -> Result<(), Failure> {
        match &self.upload {
            None => Ok(()),
            Some(url) => Err(Failure::new(format!(
                "--upload {url}: this version does not upload; write a file and push that"
            ))),
        }
    }
}
