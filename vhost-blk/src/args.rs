//! The command line of `overlaybd-vhost-blk`: parsing only.

use std::path::PathBuf;

use clap::Parser;
use log::LevelFilter;

use crate::backend::{QUEUES_MAX, QueueOptions};
use crate::disk::SERIAL_BYTES_MAX;

/// Queues a VMM may use, unless told otherwise. qemu refuses to start when there are fewer than
/// the guest has CPUs; unused ones cost next to nothing.
const NUM_QUEUES_DEFAULT: u16 = QUEUES_MAX;
/// Largest ring; a VMM that asks for more is refused.
const QUEUE_SIZE_MAX: u16 = 1024;
const THREADS_DEFAULT_MAX: usize = 4;

/// Serves overlaybd images as disks of virtual machines over vhost-user-blk sockets.
///
/// One disk: --config IMAGE.json --socket PATH. More than one: --disk for each.
/// Sockets stay when a VMM leaves; SIGTERM and SIGINT end the process and remove them.
/// Exit status: 0 ended by signal, 1 failed, 2 bad usage.
#[derive(Debug, Parser)]
#[command(name = "overlaybd-vhost-blk", version)]
pub struct Args {
    /// A disk; may be repeated. Keys: config=IMAGE.json, socket=PATH, readonly=on|off (default: on
    /// unless the image has a writable layer, upper),
    /// num-queues=1..64 (default 64), queue-size=2..1024 (the largest ring a VMM may ask for, a power of two, default 1024),
    /// threads=N (default: the number of CPUs, at most 4), serial=S (at most 20 characters,
    /// default: from the image). A comma in a value is written twice
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = parse_disk,
          required_unless_present_any = ["config", "print_capabilities"])]
    pub disk: Vec<DiskArgs>,

    /// Shorthand for --disk config=IMAGE.json,...
    #[arg(long, value_name = "IMAGE.json", requires = "socket")]
    pub config: Option<PathBuf>,

    /// Shorthand for --disk ...,socket=PATH
    #[arg(
        long,
        visible_alias = "socket-path",
        value_name = "PATH",
        requires = "config"
    )]
    pub socket: Option<PathBuf>,

    /// Service configuration (default: /etc/overlaybd/overlaybd.json if it exists)
    #[arg(long, value_name = "FILE")]
    pub service_config: Option<PathBuf>,

    /// Least severe messages to log, on stderr or to the log file of the service configuration: off,
    /// error, warn, info, debug or trace
    /// (default: what the service configuration says)
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LevelFilter>,

    /// Print what this backend can do, as JSON, and exit
    #[arg(long)]
    pub print_capabilities: bool,
}

impl Args {
    /// All disks, the shorthand one first.
    #[must_use]
    pub fn disks(&self) -> Vec<DiskArgs> {
        let shorthand = self.config.clone().zip(self.socket.clone());
        shorthand
            .map(|(config, socket)| DiskArgs::new(config, socket))
            .into_iter()
            .chain(self.disk.iter().cloned())
            .collect()
    }
}

/// One disk to serve.
#[derive(Debug, Clone)]
pub struct DiskArgs {
    /// The image's `config.v1.json`.
    pub config: PathBuf,
    /// Where to listen.
    pub socket: PathBuf,
    /// Writes refused or wanted, if the image does not decide.
    pub readonly: Option<bool>,
    /// Queues and threads.
    pub queues: QueueOptions,
    /// What the guest sees as the serial, if not the image's identity.
    pub serial: Option<String>,
}

impl DiskArgs {
    fn new(config: PathBuf, socket: PathBuf) -> Self {
        Self {
            config,
            socket,
            readonly: None,
            queues: QueueOptions {
                num_queues: NUM_QUEUES_DEFAULT,
                queue_size_max: QUEUE_SIZE_MAX,
                threads: threads_default(),
            },
            serial: None,
        }
    }
}

fn threads_default() -> usize {
    std::thread::available_parallelism()
        .map_or(1, std::num::NonZero::get)
        .min(THREADS_DEFAULT_MAX)
}

fn parse_disk(text: &str) -> Result<DiskArgs, String> {
    let mut config = None;
    let mut socket = None;
    let mut seen: Vec<String> = Vec::new();
    let mut disk = DiskArgs::new(PathBuf::new(), PathBuf::new());
    // A doubled comma stands for itself; no argument contains a NUL.
    for pair in text.replace(",,", "\0").split(',') {
        let pair = pair.replace('\0', ",");
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("expected KEY=VALUE, found '{pair}'"))?;
        let bad = |expected: &str| format!("{key}={value}: expected {expected}");
        if seen.iter().any(|other| other == key) {
            return Err(format!("{key} is given twice"));
        }
        seen.push(key.to_owned());
        match key {
            "config" => config = Some(PathBuf::from(value)),
            "socket" => socket = Some(PathBuf::from(value)),
            "readonly" if value == "on" => disk.readonly = Some(true),
            "readonly" if value == "off" => disk.readonly = Some(false),
            "readonly" => return Err(bad("on or off")),
            "num-queues" => {
                let number = value.parse().ok().filter(|n| (1..=QUEUES_MAX).contains(n));
                disk.queues.num_queues = number.ok_or_else(|| bad("1 to 64"))?;
            }
            "queue-size" => {
                let fits = |n: &u16| (2..=QUEUE_SIZE_MAX).contains(n) && n.is_power_of_two();
                let number = value.parse().ok().filter(fits);
                disk.queues.queue_size_max =
                    number.ok_or_else(|| bad("a power of two from 2 to 1024"))?;
            }
            "threads" => {
                let number = value
                    .parse()
                    .ok()
                    .filter(|n| (1..=usize::from(QUEUES_MAX)).contains(n));
                disk.queues.threads = number.ok_or_else(|| bad("1 to 64"))?;
            }
            "serial"
                if value.bytes().all(|b| b.is_ascii_graphic())
                    && value.len() <= SERIAL_BYTES_MAX =>
            {
                disk.serial = Some(value.to_owned());
            }
            "serial" => return Err(bad("at most 20 printable ASCII characters")),
            _ => return Err(format!("unknown key '{key}'")),
        }
    }
    disk.config = config.ok_or("config=IMAGE.json is missing")?;
    disk.socket = socket.ok_or("socket=PATH is missing")?;
    let queues = &mut disk.queues;
    queues.threads = queues.threads.min(usize::from(queues.num_queues));
    Ok(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once(&"overlaybd-vhost-blk").chain(args))
    }

    #[test]
    fn a_disk_needs_a_config_and_a_socket() {
        let disk = parse_disk("config=/i.json,socket=/s").unwrap();
        assert_eq!(disk.queues.num_queues, 64);
        assert_eq!(disk.queues.queue_size_max, 1024);
        assert!(parse_disk("config=/i.json").is_err());
        assert!(parse_disk("socket=/s").is_err());
        assert!(parse_disk("").is_err());
    }

    #[test]
    fn every_key_of_a_disk_is_read() {
        let text = "config=/i,socket=/s,readonly=on,num-queues=2,queue-size=512,threads=9,serial=x";
        let disk = parse_disk(text).unwrap();
        assert_eq!(disk.queues.num_queues, 2);
        assert_eq!(disk.queues.queue_size_max, 512);
        assert_eq!(disk.queues.threads, 2, "no more threads than queues");
        assert_eq!(disk.serial.as_deref(), Some("x"));
        assert_eq!(disk.readonly, Some(true));
        let disk = parse_disk("config=/i,socket=/s,readonly=off").unwrap();
        assert_eq!(disk.readonly, Some(false));
        let disk = parse_disk("config=/i,socket=/s").unwrap();
        assert_eq!(disk.readonly, None, "the image decides");
    }

    #[test]
    fn a_doubled_comma_is_part_of_a_value() {
        let disk = parse_disk("config=/a,,b,socket=/c,,,,d,,,serial=x").unwrap();
        assert_eq!(disk.config, PathBuf::from("/a,b"));
        assert_eq!(disk.socket, PathBuf::from("/c,,d,"));
        assert_eq!(disk.serial.as_deref(), Some("x"));
    }

    #[test]
    fn senseless_values_are_refused() {
        for pair in [
            "num-queues=0",
            "num-queues=65",
            "queue-size=1",
            "queue-size=100",
            "queue-size=2048",
            "threads=0",
            "readonly=yes",
            "serial=123456789012345678901",
            "size=1",
            "config",
        ] {
            let error = parse_disk(&format!("config=/i,socket=/s,{pair}")).unwrap_err();
            assert!(error.contains(pair.split('=').next().unwrap()), "{error}");
        }
    }

    #[test]
    fn shorthand_and_long_disks_add_up() {
        let args = parse(&[
            "--config",
            "/a",
            "--socket-path",
            "/b",
            "--disk",
            "config=/c,socket=/d",
        ])
        .unwrap();
        let sockets: Vec<_> = args.disks().into_iter().map(|disk| disk.socket).collect();
        assert_eq!(sockets, [PathBuf::from("/b"), PathBuf::from("/d")]);
    }

    #[test]
    fn at_least_one_whole_disk_must_be_named() {
        assert_eq!(parse(&[]).unwrap_err().exit_code(), 2);
        assert_eq!(parse(&["--config", "/a"]).unwrap_err().exit_code(), 2);
        assert_eq!(parse(&["--socket", "/a"]).unwrap_err().exit_code(), 2);
        assert!(parse(&["--print-capabilities"]).is_ok());
    }
}
