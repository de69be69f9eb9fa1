//! Binds a listening socket to a path.
//!
//! front ends, exporter -> **socket**
//!
//! Invariants
//! - a file is replaced only when it is a socket on which nobody listens.
//! - on drop the file is removed if it is still the one that was bound.
//! - looking at a file and acting on it happens under a lock on its directory, so that processes
//!   that start and end at the same time remove no socket but a stale one.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The file of a listening socket.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Lets nobody connect but root and the process's own user. Between binding and this somebody else may.
    ///
    /// # Errors
    /// From the operating system.
    pub fn make_private(&self) -> io::Result<()> {
        fs::set_permissions(&self.path, Permissions::from_mode(0o600))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _lock = lock_directory(&self.path);
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| file.dev() == self.device && file.ino() == self.inode);
        if is_ours && let Err(error) = fs::remove_file(&self.path) {
            log::warn!("socket {} not removed: {error}", self.path.display());
        }
    }
}

/// Listens on `path`.
///
/// # Errors
/// `AddrInUse` when another process listens there, `AlreadyExists` when the path is no socket,
/// any other from the operating system; the message names the path.
pub fn bind(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let fail = |error: &io::Error| {
        let message = format!("listen on socket {}: {error}", path.display());
        io::Error::new(error.kind(), message)
    };
    // A directory that cannot be read cannot be locked, but sockets can be made there.
    let _lock = lock_directory(path);
    remove_stale(path).map_err(|error| fail(&error))?;
    let listener = UnixListener::bind(path).map_err(|error| fail(&error))?;
    let metadata = fs::symlink_metadata(path).map_err(|error| fail(&error))?;
    let file = SocketFile {
        path: path.to_owned(),
        device: metadata.dev(),
        inode: metadata.ino(),
    };
    Ok((listener, file))
}

/// Keeps other processes of this program from binding and removing files beside `path` until the
/// result is dropped. Blocks.
fn lock_directory(path: &Path) -> io::Result<File> {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    let directory = File::open(parent.unwrap_or(Path::new(".")))?;
    directory.lock()?;
    Ok(directory)
}

fn remove_stale(path: &Path) -> io::Result<()> {
    let file_type = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file_type.is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "the path exists and is not a socket",
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "a process is already listening there",
        )),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            log::info!("replacing the stale socket {}", path.display());
            fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_ours_is_removed_on_drop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a listener leaves its file behind");
        let (listener, file) = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop((listener, file));
        assert!(!path.exists());
    }

    #[test]
    fn of_many_that_replace_one_stale_socket_at_once_exactly_one_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.sock");
        for _ in 0..200 {
            drop(UnixListener::bind(&path).unwrap());
            let start = Barrier::new(4);
            let bound: Vec<_> = std::thread::scope(|scope| {
                let binding = [(); 4].map(|()| {
                    scope.spawn(|| {
                        start.wait();
                        bind(&path)
                    })
                });
                binding
                    .map(|thread| thread.join().unwrap())
                    .into_iter()
                    .collect()
            });
            assert_eq!(bound.iter().flatten().count(), 1);
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn a_live_socket_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.sock");
        let _live = bind(&path).unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("disk.sock"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_file_that_is_no_socket_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.sock");
        fs::write(&path, "precious").unwrap();
        let error = bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_that_took_the_path_over_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.sock");
        let first = bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let _second = bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
    }
}
