//! The writes to configfs and sysfs, one system call each.
//!
//! host -> **tree** -> kernel
//!
//! Tests put a plain directory in its place that behaves as configfs does.
//!
//! Source: Linux `Documentation/filesystems/configfs.rst`.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::Path;

/// What is done to files that are doors into the kernel. All may block.
pub(super) trait Tree: Debug + Send + Sync {
    /// Makes one directory.
    ///
    /// # Errors
    /// Those of mkdir(2).
    fn make_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes one directory, whatever attribute files it shows.
    ///
    /// # Errors
    /// Those of rmdir(2).
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes a link at `path` to `target`.
    ///
    /// # Errors
    /// Those of symlink(2).
    fn link(&self, target: &Path, path: &Path) -> io::Result<()>;
    /// Removes a link.
    ///
    /// # Errors
    /// Those of unlink(2).
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Writes `value` to an attribute at once.
    ///
    /// # Errors
    /// Those of open(2) and write(2).
    fn write(&self, path: &Path, value: &str) -> io::Result<()>;
}

/// The kernel's own files.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RealTree;

impl Tree for RealTree {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        symlink(target, path)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        match file.write(value.as_bytes())? {
            written if written == value.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }
}
