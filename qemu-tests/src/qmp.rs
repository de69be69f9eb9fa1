//! qemu's control socket (QEMU Machine Protocol): one JSON object a line.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::deadline::Deadline;

/// A connection in command mode.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Takes over a fresh connection.
    ///
    /// # Errors
    /// When qemu does not answer.
    pub fn negotiate(stream: UnixStream, deadline: Deadline) -> Result<Self> {
        let mut qmp = Self {
            stream: BufReader::new(stream),
        };
        qmp.execute("qmp_capabilities", deadline)?;
        Ok(qmp)
    }

    /// Runs a command without arguments and waits until qemu has accepted it.
    ///
    /// # Errors
    /// When qemu refuses it, ends, or does not answer in time.
    pub fn execute(&mut self, command: &str, deadline: Deadline) -> Result<()> {
        let line = json!({ "execute": command }).to_string();
        writeln!(self.stream.get_mut(), "{line}").context("send to qemu")?;
        loop {
            let left = deadline.remaining(command)?;
            self.stream.get_mut().set_read_timeout(Some(left))?;
            let mut line = String::new();
            let read = self
                .stream
                .read_line(&mut line)
                .with_context(|| format!("wait for qemu during {command}"))?;
            if read == 0 {
                bail!("qemu ended during {command}");
            }
            // Anything else is the greeting or an event.
            let message: Value = serde_json::from_str(&line).context("read from qemu")?;
            if message.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = message.get("error") {
                bail!("qemu refused {command}: {error}");
            }
        }
    }
}
