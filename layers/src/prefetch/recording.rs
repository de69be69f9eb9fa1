//! Recording a trace because the caller asked for one.
//!
//! prefetch -> **recording** -> recorder, trace
//!
//! The caller makes an empty file TRACE and opens the disk. While its reads are noted there is
//! `TRACE.lock`. Once the caller has removed that, or the disk is closed, the trace is written,
//! and then `TRACE.ok` made.
//!
//! Invariants
//! - TRACE is empty or whole: it is replaced at once.
//! - `TRACE.lock` is locked by the process that records, so that one left by a killed process is
//!   told from one in use.
//!
//! Source: format reference 4.5.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::closing::Closing;
use super::recorder::{Detail, Recorder};
use super::trace;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{OutputFile, OutputOptions};

const OP: &str = "record trace";

/// How often it is looked whether the lock file is still there.
const POLL: Duration = Duration::from_secs(1);

/// A recording under way.
#[derive(Debug)]
pub(super) struct Recording {
    recorder: Arc<Recorder>,
    closing: Arc<Closing>,
    files: Option<Files>,
    thread: Option<JoinHandle<()>>,
}

/// The files of one recording.
#[derive(Debug)]
struct Files {
    /// With links followed: it is replaced.
    trace: PathBuf,
    lock: PathBuf,
    ok: PathBuf,
    /// Holds the lock.
    _locked: File,
}

impl Recording {
    /// Makes the lock file. From now on reads are noted.
    ///
    /// # Errors
    /// `Busy` when another disk records this trace; `Io` when the files cannot be made.
    pub(super) fn prepare(trace: &Path) -> Result<Self> {
        Ok(Self {
            files: Some(Files::prepare(trace)?),
            recorder: Arc::new(Recorder::new(Detail::All)),
            closing: Arc::default(),
            thread: None,
        })
    }

    pub(super) fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// The disk is open: waits for the end of the recording on a thread.
    pub(super) fn begin(&mut self) {
        let Some(files) = self.files.take() else {
            return;
        };
        let (recorder, closing) = (Arc::clone(&self.recorder), Arc::clone(&self.closing));
        log::info!(
            "recording trace {} until {} is removed",
            files.trace.display(),
            files.lock.display()
        );
        let wait_and_write = move || {
            while files.is_locked() && !closing.wait(POLL) {}
            recorder.stop();
            if let Err(error) = files.finish(&recorder) {
                log::error!("{error}; the trace is lost");
            }
        };
        let thread = std::thread::Builder::new().name("trace".to_owned());
        match thread.spawn(wait_and_write) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => log::error!("record trace: no thread: {error}; the trace is lost"),
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.closing.close();
        if let Some(thread) = self.thread.take() {
            // It has said itself what went wrong.
            drop(thread.join());
        }
        if let Some(files) = self.files.take() {
            // The disk was not opened: the trace stays empty, for the next attempt.
            drop(std::fs::remove_file(&files.lock));
        }
    }
}

impl Files {
    fn prepare(trace: &Path) -> Result<Self> {
        let fail = |source| Error::io(OP, source).in_file(trace.display().to_string());
        let (lock, ok) = (with_suffix(trace, ".lock"), with_suffix(trace, ".ok"));
        let locked = take_lock(&lock)?;
        let files = Self {
            trace: trace.canonicalize().map_err(fail)?,
            lock,
            ok,
            _locked: locked,
        };
        remove_if_there(&files.ok)?;
        Ok(files)
    }

    fn is_locked(&self) -> bool {
        self.lock.try_exists().unwrap_or(true)
    }

    fn finish(&self, recorder: &Recorder) -> Result<()> {
        let records = recorder.records_from(0);
        write_trace(&self.trace, &trace::encode(&records))?;
        remove_if_there(&self.lock)?;
        remove_if_there(&self.ok)?;
        File::create_new(&self.ok)
            .map_err(|source| Error::io(OP, source).in_file(self.ok.display().to_string()))?;
        let shown = self.trace.display();
        log::info!("recorded trace {shown}: {} reads", records.len());
        Ok(())
    }
}

/// Makes the lock file, or takes over that of a process that is gone.
fn take_lock(path: &Path) -> Result<File> {
    let fail = |source| Error::io(OP, source).in_file(path.display().to_string());
    let file = match File::create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            File::options().write(true).open(path)
        }
        other => other,
    };
    let file = file.map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let detail = "another disk records this trace";
            Err(Error::new(ErrorKind::Busy, OP, detail).in_file(path.display().to_string()))
        }
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

/// Replaces `path`, at once.
///
/// # Errors
/// As those of [`OutputFile`].
pub(super) fn write_trace(path: &Path, bytes: &[u8]) -> Result<()> {
    let options = OutputOptions {
        replace: true,
        ..OutputOptions::default()
    };
    let output = OutputFile::create(path, options)?;
    let written = output.file().write_all(bytes);
    written.map_err(|source| Error::io(OP, source).in_file(path.display().to_string()))?;
    output.publish()
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(OP, error).in_file(path.display().to_string()))
        }
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
