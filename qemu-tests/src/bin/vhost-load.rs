//! Loads or verifies a vhost-user-blk disk and prints one line of JSON.
//!
//! arguments -> **vhost-load** -> load -> the server under test

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use qemu_tests::load::cpu;
use qemu_tests::load::disk::Completions;
use qemu_tests::load::measure::{self, Action, Plan};
use qemu_tests::load::pattern::Mode;
use qemu_tests::load::verify;

/// Reads or writes a vhost-user-blk disk as fast as it goes for some seconds, or reads the whole of
/// it against a raw image.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Where the server listens.
    #[arg(long)]
    socket: PathBuf,
    /// Read the whole disk at several sizes and depths and compare it with this raw image.
    #[arg(long, value_name = "RAW")]
    verify: Option<PathBuf>,
    /// Bytes a request: a number, or one with k or M behind it.
    #[arg(long, default_value = "4k", value_parser = parse_size)]
    size: usize,
    /// The order of the offsets.
    #[arg(long, default_value = "rand")]
    mode: Mode,
    /// Requests in flight.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// How long to measure.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// End after so many requests, if that is earlier; nothing is left out of the count then.
    #[arg(long)]
    requests: Option<u64>,
    /// The processor this client stays on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Names the random sequence.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Report the processor time of this process.
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Do not count this process among the others that keep the host busy; may be repeated.
    #[arg(long, value_name = "PID")]
    ignore_pid: Vec<u32>,
    /// Compare every read with this raw image (the client then costs more).
    #[arg(long, value_name = "RAW", conflicts_with = "verify")]
    compare: Option<PathBuf>,
    /// Write instead of reading. What the disk held is lost.
    #[arg(long, conflicts_with_all = ["verify", "compare"])]
    write: bool,
    /// A flush after each so many writes; without it none.
    #[arg(long, value_name = "WRITES", requires = "write")]
    flush_every: Option<u64>,
    /// Afterwards read every place that was written and compare it with the last write.
    #[arg(long, requires = "write")]
    read_back: bool,
    /// Keep to the first so many bytes of the disk: a number, or one with k, M or G behind it.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, conflicts_with = "verify")]
    span: Option<u64>,
    /// How the client learns that a request has finished.
    #[arg(long, default_value = "interrupt")]
    completions: Completions,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(cpu) = args.cpu {
        cpu::pin_thread(cpu)?;
    }
    let mut line = if let Some(raw) = &args.verify {
        serde_json::to_string(&verify::whole_disk(&args.socket, raw)?)?
    } else {
        let report = measure::run(&Plan {
            socket: args.socket,
            completions: args.completions,
            mode: args.mode,
            request_bytes: args.size,
            depth: args.depth,
            span_bytes: args.span,
            window: Duration::from_secs(args.seconds),
            requests: args.requests,
            seed: args.seed,
            server: args.server_pid,
            ignored: args.ignore_pid,
            action: match args.write {
                true => Action::Write {
                    flush_every: args.flush_every,
                    read_back: args.read_back,
                },
                false => Action::Read {
                    compare: args.compare,
                },
            },
        })?;
        if report.errors > 0 {
            bail!("the server failed {} requests", report.errors);
        }
        serde_json::to_string(&report)?
    };
    line.push('\n');
    std::io::stdout().write_all(line.as_bytes())?;
    Ok(())
}

fn parse_size(text: &str) -> Result<usize> {
    Ok(usize::try_from(parse_bytes(text)?)?)
}

fn parse_bytes(text: &str) -> Result<u64> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'k' | b'K') => (text.trim_end_matches(['k', 'K']), 10),
        Some(b'm' | b'M') => (text.trim_end_matches(['m', 'M']), 20),
        Some(b'g' | b'G') => (text.trim_end_matches(['g', 'G']), 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse()?;
    number
        .checked_mul(1 << shift)
        .context("larger than the address space")
}
