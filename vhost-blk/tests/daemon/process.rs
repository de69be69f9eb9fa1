//! The daemon under test, and images for it to serve.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use layers::Service;
use layers::lsmt::Uuid;
use layers::lsmt::upper::{CreateOptions, UpperKind, create};
use layers::{Access, Image};

/// No step of a test takes longer, on however busy a machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A config file for the three native layers, and the disk they make.
pub(crate) fn native_image(dir: &Path) -> (PathBuf, Image) {
    image_of(dir, &native_layers())
}

pub(crate) fn native_layers() -> [PathBuf; 3] {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../layers/vectors/native");
    [0, 1, 2].map(|n| vectors.join(format!("layer{n}.obd")))
}

/// A config file for `layers`, bottom first, and the disk they make.
pub(crate) fn image_of(dir: &Path, layers: &[PathBuf]) -> (PathBuf, Image) {
    let lowers: Vec<_> = layers
        .iter()
        .map(|layer| format!("{{\"file\": \"{}\"}}", layer.display()))
        .collect();
    let config = dir.join("config.v1.json");
    let text = format!(
        "{{\"lowers\": [{}], \"resultFile\": \"{}\"}}",
        lowers.join(", "),
        dir.join("result").display()
    );
    std::fs::write(&config, text).unwrap();
    let image = Image::open(&config, &Service::default(), Access::Read).unwrap();
    (config, image)
}

/// A config file for a new writable layer over the native ones, or alone as a disk of
/// `alone_bytes`.
pub(crate) fn writable_image(dir: &Path, kind: UpperKind, alone_bytes: Option<u64>) -> PathBuf {
    let [data, index, config] = ["data", "index", "rw.v1.json"].map(|name| dir.join(name));
    let options = CreateOptions {
        kind,
        virtual_size_bytes: alone_bytes.unwrap_or(0),
        parent_uuid: Uuid::NIL,
    };
    create(&data, &index, options).unwrap();
    let lowers: Vec<_> = match alone_bytes {
        Some(_) => Vec::new(),
        None => native_layers()
            .map(|layer| format!("{{\"file\": \"{}\"}}", layer.display()))
            .into(),
    };
    let text = format!(
        "{{\"lowers\": [{}], \"upper\": {{\"data\": \"{}\", \"index\": \"{}\"}}, \
         \"resultFile\": \"{}\"}}",
        lowers.join(", "),
        data.display(),
        index.display(),
        dir.join("result").display()
    );
    std::fs::write(&config, text).unwrap();
    config
}

/// The disk of a config that no daemon has open.
pub(crate) fn open_read_only(config: &Path) -> Image {
    Image::open(config, &Service::default(), Access::Read).unwrap()
}

/// A running `overlaybd-vhost-blk`; killed on drop.
pub(crate) struct Daemon {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Daemon {
    /// Starts the daemon and waits until it serves `disks` disks.
    pub(crate) fn start<A: AsRef<std::ffi::OsStr>>(args: &[A], disks: usize) -> Self {
        let mut child = command(args).spawn().unwrap();
        let lines = lines(child.stderr.take().unwrap());
        let daemon = Self { child, lines };
        for _ in 0..disks {
            daemon.wait_for_log("serving image=");
        }
        daemon
    }

    /// Starts the daemon for one disk with default options.
    pub(crate) fn serve(config: &Path, socket: &Path) -> Self {
        let args = [
            "--config".as_ref(),
            config.as_os_str(),
            "--socket".as_ref(),
            socket.as_os_str(),
        ];
        Self::start(&args, 1)
    }

    /// Waits for a log line with `text` in it and returns it.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(DEADLINE);
            let line = line.unwrap_or_else(|_| panic!("the daemon never logged '{text}'"));
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Names of the daemon's threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        std::fs::read_dir(format!("/proc/{}/task", self.pid()))
            .unwrap()
            // A thread may end while it is looked at.
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
            .map(|name| name.trim_end().to_owned())
            .collect()
    }

    /// Sends a signal by name, such as "TERM".
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.pid().to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    /// Kills it at once; [`Daemon::wait`] waits until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Waits for the end of the process. Its log must end first, and does so when it ends.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("the daemon did not end"),
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The daemon's command line, with its log captured.
pub(crate) fn command<A: AsRef<std::ffi::OsStr>>(args: &[A]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overlaybd-vhost-blk"));
    command
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn lines(stderr: ChildStderr) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            eprintln!("{line}");
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}
