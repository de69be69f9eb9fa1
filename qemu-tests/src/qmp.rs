//! qemu's control socket (QEMU Machine Protocol): JSON objects, its own one a line.
//!
//! Invariant: a command is one write that ends with its closing brace. That is where qemu takes it, and
//! it may be gone before anything that follows is sent.

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
        let object = json!({ "execute": command }).to_string();
        let stream = self.stream.get_mut();
        stream
            .write_all(object.as_bytes())
            .with_context(|| format!("send {command} to qemu"))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_command_that_ends_qemu_is_accepted_though_nobody_reads_on() {
        let (ours, mut qemu) = UnixStream::pair().unwrap();
        let received = std::thread::spawn(move || {
            qemu.write_all(b"{\"QMP\": {}}\n").unwrap();
            let mut text = Vec::new();
            while !text.ends_with(b"}") {
                let mut byte = [0];
                qemu.read_exact(&mut byte).unwrap();
                text.extend(byte);
            }
            qemu.write_all(b"{\"return\": {}}\n").unwrap();
            // What was sent behind the brace would be here by now or fail.
            qemu.read_to_end(&mut text).unwrap();
            text
        });
        let deadline = Deadline::after(5);
        drop(Qmp::negotiate(ours, deadline).unwrap());
        assert_eq!(
            received.join().unwrap(),
            br#"{"execute":"qmp_capabilities"}"#
        );
    }
}
