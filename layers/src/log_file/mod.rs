//! Where log lines go: standard error, or the file of `logConfig`.
//!
//! env_logger -> **log output** -> rotating file
//!
//! Source: format reference 5 (logConfig).

mod rotating;

pub use rotating::RotatingFile;

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::LogConfig;
use crate::error::Result;

/// Standard error, until it is told a file. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct LogOutput(Arc<Mutex<Option<RotatingFile>>>);

impl LogOutput {
    /// Writes to the file of `config` from now on, if it names one.
    ///
    /// # Errors
    /// As [`RotatingFile::open`].
    pub fn use_file_of(&self, config: &LogConfig) -> Result<()> {
        if config.path.as_os_str().is_empty() {
            return Ok(());
        }
        let bytes_max = config.size_mib.saturating_mul(1 << 20);
        let mut file = RotatingFile::new(&config.path, bytes_max, config.files);
        file.open()?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    /// Do lines go to a file?
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}

/// Takes whole lines, as loggers give them. A line that the file does not take goes to standard error.
impl Write for LogOutput {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = &mut *file else {
            io::stderr().write_all(lines)?;
            return Ok(lines.len());
        };
        if let Err(error) = file.append(lines) {
            let mut stderr = io::stderr().lock();
            writeln!(stderr, "{error}")?;
            stderr.write_all(lines)?;
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_to_the_file_as_soon_as_it_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let config = LogConfig {
            path: path.clone(),
            ..LogConfig::default()
        };
        let output = LogOutput::default();
        output.use_file_of(&LogConfig::default()).unwrap();
        assert!(!output.is_file());
        output.use_file_of(&config).unwrap();
        assert!(output.is_file());
        output.clone().write_all(b"hello\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "hello\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_that_names_it() {
        let config = LogConfig {
            path: "/nonexistent/log".into(),
            ..LogConfig::default()
        };
        let error = LogOutput::default().use_file_of(&config).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("open log file: /nonexistent/log"),
            "{error}"
        );
    }
}
