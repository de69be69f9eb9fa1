//! An output file that appears under its name only when it is whole.
//!
//! Written to a temporary file in the same directory, flushed to disk, then renamed. Whatever
//! fails or dies before leaves the final name untouched.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, ErrorKind, Result};

const OP: &str = "write output file";

/// A file being written. Dropped before [`OutputFile::publish`], it is deleted.
#[derive(Debug)]
pub struct OutputFile {
    temporary: NamedTempFile,
    path: PathBuf,
    replace: bool,
}

impl OutputFile {
    /// Starts an output for `path`. An existing regular file is replaced only if
    /// `replace`; anything else that exists, never.
    ///
    /// # Errors
    /// `Config` when `path` exists and may not be replaced; `Io` or `NotFound` for its directory.
    pub fn create(path: &Path, replace: bool) -> Result<Self> {
        match path.symlink_metadata() {
            Ok(_) if !replace => return Err(exists(path)),
            Ok(metadata) if !metadata.is_file() => {
                let error = Error::new(ErrorKind::Config, OP, "exists and is not a regular file");
                return Err(error.in_file(path.display().to_string()));
            }
            _ => {}
        }
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        parent.metadata().map_err(|source| fail(path, source))?;
        let temporary = tempfile::Builder::new()
            .prefix(".obd-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(parent)
            .map_err(|source| fail(path, source))?;
        Ok(Self {
            temporary,
            path: path.to_owned(),
            replace,
        })
    }

    /// The file to write to.
    #[must_use]
    pub fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// The final name, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes to disk and gives the file its name.
    ///
    /// # Errors
    /// `Io`; `Config` when somebody else made the file meanwhile.
    pub fn publish(self) -> Result<()> {
        let Self {
            temporary,
            path,
            replace,
        } = self;
        temporary
            .as_file()
            .sync_all()
            .map_err(|source| fail(&path, source))?;
        let done = if replace {
            temporary.persist(&path)
        } else {
            temporary.persist_noclobber(&path)
        };
        match done {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Err(exists(&path)),
            Err(error) => Err(fail(&path, error.error)),
        }
    }
}

fn fail(path: &Path, source: io::Error) -> Error {
    Error::io(OP, source).in_file(path.display().to_string())
}

fn exists(path: &Path) -> Error {
    Error::new(
        ErrorKind::Config,
        OP,
        "exists already; use --force to replace it",
    )
    .in_file(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn nothing_is_left_when_the_output_is_not_published() {
        let dir = tempfile::tempdir().unwrap();
        let output = OutputFile::create(&dir.path().join("x"), false).unwrap();
        output.file().write_all(b"half").unwrap();
        drop(output);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_existing_file_is_kept_unless_replacing_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "old").unwrap();
        let error = OutputFile::create(&path, false).unwrap_err();
        assert!(error.to_string().contains("exists already"), "{error}");
        let output = OutputFile::create(&path, true).unwrap();
        output.file().write_all(b"new").unwrap();
        output.publish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let output = OutputFile::create(&path, false).unwrap();
        std::fs::write(&path, "theirs").unwrap();
        assert!(output.publish().is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
    }
}
