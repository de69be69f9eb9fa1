//! What the operator sees: results on stdout, errors and progress on stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Set when results could not be printed.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints one line of results. A reader that went away is not an error; a full disk is, and shows
/// in [`exit_code`].
pub fn say(line: impl Display) {
    if let Err(error) = writeln!(io::stdout(), "{line}")
        && error.kind() != io::ErrorKind::BrokenPipe
        && !LOST.swap(true, Ordering::Relaxed)
    {
        complain(format_args!("write results: {error}"));
    }
}

/// Prints one line about what went wrong.
pub fn complain(line: impl Display) {
    drop(writeln!(io::stderr(), "{line}"));
}

/// `code`, or `failure` when results were lost.
#[must_use]
pub fn exit_code(code: ExitCode, failure: ExitCode) -> ExitCode {
    if LOST.load(Ordering::Relaxed) {
        failure
    } else {
        code
    }
}

/// A progress bar over bytes; drawn on a terminal only.
#[must_use]
pub fn progress_bar(what: &str) -> ProgressBar {
    let bar = ProgressBar::hidden();
    if io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(10));
    }
    let style = "{msg} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}

/// The callback that moves `bar`.
pub fn reporter(bar: &ProgressBar) -> impl FnMut(u64, u64) {
    |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    }
}

/// A size for people: three digits and a binary unit.
#[must_use]
pub fn human(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
