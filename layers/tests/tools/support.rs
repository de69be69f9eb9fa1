//! Running the programs, and the vector files.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// What a program did.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Outcome {
    /// It ended with status 0.
    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It ended with `code` and said `words` on stderr.
    #[track_caller]
    pub(crate) fn failed(self, code: i32, words: &str) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(words), "expected {words:?}: {self:?}");
        assert!(!self.stderr.contains("panicked"), "{self:?}");
        self
    }
}

/// The program of that name.
pub(crate) fn program(name: &str) -> PathBuf {
    PathBuf::from(match name {
        "create" => env!("CARGO_BIN_EXE_overlaybd-create"),
        "commit" => env!("CARGO_BIN_EXE_overlaybd-commit"),
        "merge" => env!("CARGO_BIN_EXE_overlaybd-merge"),
        "resize" => env!("CARGO_BIN_EXE_overlaybd-resize"),
        "zfile" => env!("CARGO_BIN_EXE_overlaybd-zfile"),
        "obd" => env!("CARGO_BIN_EXE_obd"),
        _ => panic!("no program {name}"),
    })
}

/// A directory to run programs in.
#[derive(Debug)]
pub(crate) struct Scene {
    dir: TempDir,
}

impl Scene {
    /// An empty one, beside the build: on a file system with holes.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { dir }
    }

    /// One with the files of the writable vectors.
    pub(crate) fn with_writable_vectors() -> Self {
        let scene = Self::new();
        let tar = Command::new("tar")
            .args(["--zstd", "-xSf"])
            .arg(vector("writable/writable.tar.zst"))
            .arg("-C")
            .arg(scene.dir.path())
            .status();
        assert!(tar.unwrap().success(), "tar with zstd unpacks the vectors");
        scene
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// The names of all files there, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        names
    }

    /// The command that runs a program here.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, name: &str, args: &[A]) -> Command {
        let mut command = Command::new(program(name));
        command
            .args(args)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Runs a program with the words of `line` as arguments.
    pub(crate) fn run(&self, name: &str, line: &str) -> Outcome {
        let args: Vec<_> = line.split_whitespace().collect();
        self.command(name, &args).output().unwrap().into()
    }

    /// Runs it in a shell that can write files of at most `kib` KiB, and is told so by an error.
    pub(crate) fn run_short_of_space(&self, kib: u32, name: &str, line: &str) -> Outcome {
        let script = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" {line}");
        let mut shell = Command::new("bash");
        shell.arg("-c").arg(script).arg(program(name));
        let output = shell.current_dir(self.dir.path()).output();
        output.unwrap().into()
    }

    /// Writes an image config.
    pub(crate) fn config(&self, name: &str, lowers: &[PathBuf], upper: Option<(&str, &str)>) {
        let lowers: Vec<_> = lowers
            .iter()
            .map(|file| serde_json::json!({ "file": file }))
            .collect();
        let mut config = serde_json::json!({ "lowers": lowers });
        if let Some((data, index)) = upper {
            config["upper"] = serde_json::json!({ "data": data, "index": index });
        }
        self.write(name, config.to_string().as_bytes());
    }
}

/// A file that the C++ tools wrote.
pub(crate) fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(name)
}

/// The three read-only layers, bottom first.
pub(crate) fn native_layers() -> Vec<PathBuf> {
    (0..3)
        .map(|number| vector(&format!("native/layer{number}.obd")))
        .collect()
}
