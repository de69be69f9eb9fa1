//! Shell commands in the guest, over its second serial line.
//!
//! test -> **serial line** -> `qemu-tests/guest/serve` in the guest
//!
//! One command at a time: a line `NUMBER COMMAND` goes in, its output comes back, then a line
//! `obd-guest-done NUMBER STATUS`. Kernel messages go to the other line and never mix in.
//!
//! Invariants
//! - no read waits beyond its deadline;
//! - a guest that starts again while a command runs, or a qemu that ends, is an error at once.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail, ensure};

use crate::deadline::Deadline;

const READY: &str = "obd-guest-ready ";
const DONE: &str = "obd-guest-done ";

/// The host's end of the line.
#[derive(Debug)]
pub struct Serial {
    stream: UnixStream,
    unread: Vec<u8>,
    commands: u64,
}

/// A command that was started and not yet awaited.
#[derive(Debug)]
pub struct Running<'serial> {
    serial: &'serial mut Serial,
    number: u64,
    output: String,
    status: Option<i32>,
}

impl Serial {
    /// Talks over `stream`.
    #[must_use]
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            unread: Vec::new(),
            commands: 0,
        }
    }

    /// Waits until the guest has booted and takes commands. What it said before is dropped.
    ///
    /// # Errors
    /// When the deadline passes or qemu ends.
    pub fn wait_until_ready(&mut self, deadline: Deadline) -> Result<()> {
        loop {
            if self
                .read_line("the guest to boot", deadline)?
                .starts_with(READY)
            {
                return Ok(());
            }
        }
    }

    /// Starts `command`, a shell script of any number of lines.
    ///
    /// # Errors
    /// When the line is closed.
    pub fn start(&mut self, command: &str) -> Result<Running<'_>> {
        self.commands += 1;
        let number = self.commands;
        let escaped = command.trim().replace('\\', "\\\\").replace('\n', "\\n");
        writeln!(self.stream, "{number} {escaped}").context("send a command to the guest")?;
        Ok(Running {
            serial: self,
            number,
            output: String::new(),
            status: None,
        })
    }

    /// Waits until qemu has closed the line, which it does when it ends.
    ///
    /// # Errors
    /// When the deadline passes.
    pub fn wait_until_closed(&mut self, deadline: Deadline) -> Result<()> {
        while self.read_more("qemu to end", deadline)? > 0 {}
        Ok(())
    }

    fn read_line(&mut self, what: &str, deadline: Deadline) -> Result<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                let line = std::mem::replace(&mut self.unread, rest);
                return Ok(String::from_utf8_lossy(&line)
                    .trim_end_matches('\n')
                    .to_owned());
            }
            if self.read_more(what, deadline)? == 0 {
                bail!("qemu ended while waiting for {what}");
            }
        }
    }

    /// Appends what has arrived to `unread`; 0 means that the line is closed.
    fn read_more(&mut self, what: &str, deadline: Deadline) -> Result<usize> {
        let mut bytes = [0_u8; 4096];
        loop {
            self.stream
                .set_read_timeout(Some(deadline.remaining(what)?))?;
            match self.stream.read(&mut bytes) {
                Ok(read) => {
                    self.unread.extend(bytes.iter().take(read));
                    return Ok(read);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(0),
                Err(error) => return Err(error).context("read from the guest"),
            }
        }
    }
}

impl Running<'_> {
    /// Waits for the next line that the command prints; `None` when it has ended.
    ///
    /// # Errors
    /// When the deadline passes, qemu ends or the guest boots again.
    pub fn next_line(&mut self, deadline: Deadline) -> Result<Option<String>> {
        if self.status.is_some() {
            return Ok(None);
        }
        let what = format!(
            "guest command {} (output so far: {:?})",
            self.number, self.output
        );
        let line = self.serial.read_line(&what, deadline)?;
        ensure!(
            !line.starts_with(READY),
            "the guest booted again during {what}"
        );
        if let Some(end) = line.strip_prefix(DONE) {
            let (number, status) = end
                .split_once(' ')
                .context("a broken end-of-command line")?;
            ensure!(
                number == self.number.to_string(),
                "end of command {number} during {what}"
            );
            self.status = Some(status.parse().context("exit status of a guest command")?);
            return Ok(None);
        }
        self.output.push_str(&line);
        self.output.push('\n');
        Ok(Some(line))
    }

    /// Waits for the end; returns everything that the command printed, trimmed.
    ///
    /// # Errors
    /// As [`Running::next_line`]; when the exit status is not 0.
    pub fn finish(mut self, deadline: Deadline) -> Result<String> {
        while self.next_line(deadline)?.is_some() {}
        let output = self.output.trim().to_owned();
        ensure!(
            self.status == Some(0),
            "guest command {} ended with status {:?}: {output}",
            self.number,
            self.status
        );
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line_with(from_guest: &str) -> (Serial, UnixStream) {
        let (host, mut guest) = UnixStream::pair().unwrap();
        guest.write_all(from_guest.as_bytes()).unwrap();
        (Serial::new(host), guest)
    }

    #[test]
    fn output_ends_at_the_mark_of_the_same_command() {
        let (mut serial, _guest) =
            line_with("noise\nobd-guest-ready 6\na\nb\n\nobd-guest-done 1 0\n");
        serial.wait_until_ready(Deadline::after(5)).unwrap();
        let running = serial.start("x").unwrap();
        assert_eq!(running.finish(Deadline::after(5)).unwrap(), "a\nb");
    }

    #[test]
    fn a_failed_command_is_an_error_with_its_output() {
        let (mut serial, _guest) = line_with("no such file\n\nobd-guest-done 1 7\n");
        let error = serial
            .start("x")
            .unwrap()
            .finish(Deadline::after(5))
            .unwrap_err();
        assert!(
            error.to_string().contains("Some(7): no such file"),
            "{error}"
        );
    }

    #[test]
    fn a_guest_that_boots_again_fails_the_command() {
        let (mut serial, _guest) = line_with("half\nobd-guest-ready 6\n");
        let error = serial
            .start("x")
            .unwrap()
            .finish(Deadline::after(5))
            .unwrap_err();
        assert!(error.to_string().contains("booted again"), "{error}");
    }

    #[test]
    fn a_qemu_that_ends_fails_the_command() {
        let (mut serial, guest) = line_with("half");
        let running = serial.start("x").unwrap();
        drop(guest);
        let error = running.finish(Deadline::after(5)).unwrap_err();
        assert!(error.to_string().contains("qemu ended"), "{error}");
    }

    #[test]
    fn a_silent_guest_fails_the_command_at_its_deadline() {
        let (mut serial, _guest) = line_with("half");
        let error = serial
            .start("x")
            .unwrap()
            .finish(Deadline::after(0))
            .unwrap_err();
        assert!(error.to_string().contains("deadline passed"), "{error}");
    }

    #[test]
    fn a_script_travels_as_one_escaped_line() {
        let (mut serial, mut guest) = line_with("");
        serial.start("printf '\\n'\nls").unwrap();
        let mut sent = [0; 64];
        let read = guest.read(&mut sent).unwrap();
        assert_eq!(&sent[..read], b"1 printf '\\\\n'\\nls\n");
    }
}
