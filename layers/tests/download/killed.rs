//! Processes that share a layer directory, and are killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::support::{DEADLINE, Disk, Origin, PIECE, config, content, partial, room, whole};

const LEN: usize = 40 * PIECE + 4321;
const DIR: &str = "OBD_TEST_DOWNLOAD_DIR";

/// Runs only in a process that another test of this file starts.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else {
        return;
    };
    let dir = Path::new(&dir);
    let mut say = std::io::stdout();
    let origin = Origin::new(content(LEN));
    let disk = Disk::start(&origin, &dir.join("fs"), &dir.join("cache"), &config());
    writeln!(say, "started").unwrap();
    disk.wait();
    let given = origin.given.load(std::sync::atomic::Ordering::Relaxed);
    writeln!(say, "done {given} {}", disk.switch.is_local()).unwrap();
}

struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "killed::child",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(DIR, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        Self { child, lines }
    }

    /// The words of the line that begins with `word`.
    fn wait_for(&self, word: &str) -> Vec<String> {
        loop {
            let line = self
                .lines
                .recv_timeout(DEADLINE)
                .expect("the process said nothing");
            if let Some(at) = line.find(word) {
                return line[at..].split_whitespace().map(str::to_owned).collect();
            }
        }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn of_two_processes_one_downloads_and_both_read_the_file() {
    let room = room();
    let root = room.dir.parent().unwrap();
    let processes = [(); 2].map(|()| Process::start(root));
    let done = processes.each_ref().map(|process| process.wait_for("done"));
    assert!(done.iter().all(|words| words[2] == "true"), "{done:?}");
    let given: Vec<usize> = done.iter().map(|words| words[1].parse().unwrap()).collect();
    // Some pieces may have come out of the cache.
    assert!(given.iter().sum::<usize>() <= LEN, "{given:?}");
    assert!(std::fs::read(whole(&room.dir)).unwrap() == content(LEN));
}

#[test]
fn a_process_that_is_killed_leaves_nothing_or_what_the_next_one_goes_on_with() {
    let bytes = content(LEN);
    let mut resumed = 0;
    for round in 0..6 {
        let room = room();
        let root = room.dir.parent().unwrap();
        let mut had = 0;
        for _ in 0..20 {
            let mut process = Process::start(root);
            process.wait_for("started");
            // At another moment each time, however fast the machine: after so much was written.
            let goal = had + round * PIECE as u64;
            while partial(&room.dir).exists() && written(&room.dir) < goal {
                std::thread::yield_now();
            }
            process.kill();
            assert_sound(&room.dir, &bytes);
            if whole(&room.dir).exists() {
                break;
            }
            had = written(&room.dir);
            resumed += usize::from(had > 0);
        }
        let last = Process::start(root);
        let done = last.wait_for("done");
        assert_eq!(done[2], "true");
        let given: u64 = done[1].parse().unwrap();
        // A piece that was cut short is fetched again, all others are not.
        assert!(given + had <= (LEN + PIECE) as u64, "{given} {had}");
        assert!(std::fs::read(whole(&room.dir)).unwrap() == bytes);
    }
    assert!(resumed > 0, "no process was killed halfway");
}

/// Bytes of data in the partial file.
fn written(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(partial(dir)).map_or(0, |metadata| metadata.blocks() * 512)
}

/// A whole layer is right; a partial one has right bytes wherever it has any.
fn assert_sound(dir: &Path, bytes: &[u8]) {
    if let Ok(found) = std::fs::read(whole(dir)) {
        assert!(found == bytes);
    }
    let found = std::fs::read(partial(dir)).unwrap_or_default();
    for (found, wanted) in found.chunks(4096).zip(bytes.chunks(4096)) {
        assert!(found == wanted || found.iter().all(|byte| *byte == 0));
    }
}
