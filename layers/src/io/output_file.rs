//! An output file that appears under its name only when it is whole.
//!
//! tool | lsmt upper (create) -> **output file** -> unnamed file
//!
//! Written without a name (where the file system cannot do that, under a temporary one in the same
//! directory), flushed to disk, then named. Whatever fails or dies before leaves the final name
//! untouched, and no file under another.

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::unnamed_file;
use crate::error::{Error, ErrorKind, Result};

const OP: &str = "write output file";

/// Start of the names that last for a moment.
const TEMPORARY_PREFIX: &str = ".obd-";

/// How an output comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputOptions {
    /// Replace a regular file of that name, at once and only when the new one is whole.
    pub replace: bool,
    /// Permissions, less the umask.
    pub mode: u32,
}

impl Default for OutputOptions {
    /// What the C++ tools give their outputs.
    fn default() -> Self {
        Self {
            replace: false,
            mode: 0o644,
        }
    }
}

/// A file being written. Dropped before [`OutputFile::publish`], it is gone.
#[derive(Debug)]
pub struct OutputFile {
    pending: Pending,
    path: PathBuf,
    directory: PathBuf,
    /// The same, to make the name last.
    opened_directory: File,
    replace: bool,
}

#[derive(Debug)]
enum Pending {
    Unnamed(File),
    Temporary(NamedTempFile),
}

impl OutputFile {
    /// Starts an output for `path`. What exists there and is no regular file is never replaced.
    ///
    /// # Errors
    /// `Exists` when `path` exists and may not be replaced; `Config` when it is no regular file,
    /// which can never be replaced; `Io` or `NotFound` for its directory.
    pub fn create(path: &Path, options: OutputOptions) -> Result<Self> {
        match path.symlink_metadata() {
            Ok(metadata) if !metadata.is_file() => {
                let error = Error::new(ErrorKind::Config, OP, "exists and is not a regular file");
                return Err(error.in_file(path.display().to_string()));
            }
            Ok(_) if !options.replace => return Err(exists(path)),
            _ => {}
        }
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let directory = parent.unwrap_or(Path::new(".")).to_owned();
        let pending = Pending::create(&directory, options.mode);
        let pending = pending.map_err(|source| fail(path, source))?;
        // Before any work is done, which would be in vain without it.
        let opened_directory = File::open(&directory).map_err(|source| fail(path, source))?;
        Ok(Self {
            pending,
            path: path.to_owned(),
            directory,
            opened_directory,
            replace: options.replace,
        })
    }

    /// The file to write to.
    #[must_use]
    pub fn file(&self) -> &File {
        match &self.pending {
            Pending::Unnamed(file) => file,
            Pending::Temporary(file) => file.as_file(),
        }
    }

    /// The final name, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Refuses to go on when the output would replace `source`, which it is made from.
    ///
    /// # Errors
    /// `Config`.
    pub fn check_is_not(&self, source: &Path) -> Result<()> {
        let same = match (source.metadata(), self.path.metadata()) {
            (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
            _ => false,
        };
        if !same {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Config, OP, "is the input and the output at once");
        Err(error.in_file(self.path.display().to_string()))
    }

    /// Flushes to disk and gives the file its name, which survives a power cut from then on.
    ///
    /// # Errors
    /// `Io`: then there is no new file, unless the error says so; `Exists` when somebody else made
    /// the file meanwhile.
    pub fn publish(self) -> Result<()> {
        let synced = self.file().sync_all();
        synced.map_err(|source| fail(&self.path, source))?;
        let named = self.pending.name(&self.directory, &self.path, self.replace);
        named.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => exists(&self.path),
            _ => fail(&self.path, source),
        })?;
        match self.opened_directory.sync_all() {
            Ok(()) => Ok(()),
            // The file system cannot do that for a directory.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            Err(source) => Err(take_back(&self.path, self.replace, source)),
        }
    }
}

impl Pending {
    fn create(directory: &Path, mode: u32) -> io::Result<Self> {
        if let Some(file) = unnamed_file::create(directory, mode)? {
            return Ok(Self::Unnamed(file));
        }
        let mut builder = tempfile::Builder::new();
        builder
            .prefix(TEMPORARY_PREFIX)
            .permissions(Permissions::from_mode(mode));
        builder.tempfile_in(directory).map(Self::Temporary)
    }

    fn name(self, directory: &Path, path: &Path, replace: bool) -> io::Result<()> {
        match (self, replace) {
            (Self::Unnamed(file), false) => unnamed_file::link(&file, path),
            (Self::Unnamed(file), true) => {
                let mut builder = tempfile::Builder::new();
                let linked = builder
                    .prefix(TEMPORARY_PREFIX)
                    .make_in(directory, |path| unnamed_file::link(&file, path))?;
                linked.persist(path)?;
                Ok(())
            }
            (Self::Temporary(file), false) => {
                file.persist_noclobber(path)?;
                Ok(())
            }
            (Self::Temporary(file), true) => {
                file.persist(path)?;
                Ok(())
            }
        }
    }
}

fn fail(path: &Path, source: io::Error) -> Error {
    Error::io(OP, source).in_file(path.display().to_string())
}

/// A name that may not last is taken away again, where no older file had it.
fn take_back(path: &Path, replaced: bool, source: io::Error) -> Error {
    const TAKEN: &str = "flush directory of output file";
    const STAYS: &str = "flush directory of output file (it is there and whole, but may be gone, \
                         or the file it replaced be back, after a power cut)";
    let op = match replaced {
        false if std::fs::remove_file(path).is_ok() => TAKEN,
        _ => STAYS,
    };
    Error::io(op, source).in_file(path.display().to_string())
}

fn exists(path: &Path) -> Error {
    Error::new(ErrorKind::Exists, OP, "exists already").in_file(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const REPLACE: OutputOptions = OutputOptions {
        replace: true,
        mode: 0o644,
    };

    fn unnamed(path: &Path, options: OutputOptions) -> OutputFile {
        let output = OutputFile::create(path, options).unwrap();
        assert!(matches!(output.pending, Pending::Unnamed(_)));
        output
    }

    fn temporary(path: &Path, options: OutputOptions) -> OutputFile {
        let output = unnamed(path, options);
        let file = NamedTempFile::new_in(&output.directory).unwrap();
        OutputFile {
            pending: Pending::Temporary(file),
            ..output
        }
    }

    #[test]
    fn the_directory_stays_empty_until_the_output_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let output = unnamed(&dir.path().join("x"), OutputOptions::default());
        output.file().write_all(b"half").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(output);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_existing_file_is_kept_unless_replacing_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "old").unwrap();
        let error = OutputFile::create(&path, OutputOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists);
        assert!(error.to_string().contains("exists already"), "{error}");
        for start in [unnamed, temporary] {
            let output = start(&path, REPLACE);
            output.file().write_all(b"new").unwrap();
            output.publish().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), b"new");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
            std::fs::write(&path, "old").unwrap();
        }
    }

    #[test]
    fn a_file_that_appears_meanwhile_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for start in [unnamed, temporary] {
            let output = start(&path, OutputOptions::default());
            std::fs::write(&path, "theirs").unwrap();
            let error = output.publish().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Exists);
            assert_eq!(std::fs::read(&path).unwrap(), b"theirs");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_directory_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for options in [REPLACE, OutputOptions::default()] {
            let error = OutputFile::create(dir.path(), options).unwrap_err();
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
    }

    #[test]
    fn a_name_that_may_not_last_is_an_error() {
        use std::os::unix::fs::OpenOptionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let publish = |options| {
            let output = unnamed(&path, options);
            output.file().write_all(b"new").unwrap();
            // Such a descriptor cannot be flushed.
            let cannot = File::options()
                .read(true)
                .custom_flags(libc::O_PATH)
                .open(dir.path());
            let opened_directory = cannot.unwrap();
            let output = OutputFile {
                opened_directory,
                ..output
            };
            output.publish().unwrap_err()
        };
        let error = publish(OutputOptions::default());
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
        assert!(!path.exists(), "a failed output leaves nothing");
        std::fs::write(&path, "old").unwrap();
        let error = publish(REPLACE);
        assert!(error.to_string().contains("it is there"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn an_output_cannot_replace_what_it_is_made_from() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("x"), dir.path().join("link"));
        std::fs::write(&path, "old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let output = OutputFile::create(&path, REPLACE).unwrap();
        assert!(output.check_is_not(&link).is_err());
        assert!(output.check_is_not(dir.path()).is_ok());
    }
}
