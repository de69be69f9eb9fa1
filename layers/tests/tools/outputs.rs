//! Whatever happens to a tool, a file under its final name is whole.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use crate::support::{Scene, native_layers};

/// Incompressible, so that outputs are as large as inputs.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let step = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_le_bytes()[7]
    };
    (0..len).map(step).collect()
}

#[test]
fn a_full_disk_leaves_neither_a_file_nor_a_success() {
    let scene = Scene::with_writable_vectors();
    scene.config("image.json", &native_layers(), None);
    scene.write("noise", &noise(1 << 20));
    scene.run("zfile", "noise noise.zfile").succeeded();
    let before = scene.names();
    for (name, line, words) in [
        (
            "commit",
            "log.data log.index out",
            "failed to perform commit(), ",
        ),
        (
            "commit",
            "log.data log.index out -z -t",
            "failed to perform commit(), ",
        ),
        ("merge", "image.json out", "failed to compact, "),
        ("zfile", "noise out", "compress failed, errno:"),
        ("zfile", "-x noise.zfile out", "decompress failed, errno:"),
        ("create", "out out.index 1 -s", "failed to create files, "),
    ] {
        let outcome = scene.run_short_of_space(64, name, line).failed(255, words);
        // One place, one cause.
        assert!(outcome.stderr.contains(": out"), "{outcome:?}");
        assert!(outcome.stderr.contains(": File too large"), "{outcome:?}");
        assert!(!outcome.stdout.contains("SUCCESS") && !outcome.stdout.contains("done"));
        assert_eq!(scene.names(), before, "{name} {line}");
    }
}

#[test]
fn a_replaced_file_stays_as_it_was_when_the_new_one_does_not_get_whole() {
    let scene = Scene::with_writable_vectors();
    scene.write("out", b"precious");
    let before = scene.names();
    scene
        .run_short_of_space(64, "commit", "log.data log.index -f out")
        .failed(255, "File too large");
    assert_eq!(scene.read("out"), b"precious");
    assert_eq!(scene.names(), before);
    scene.run("commit", "log.data log.index -f out").succeeded();
    assert_eq!(scene.names(), before);
    assert!(scene.read("out").len() > 8);
}

#[test]
fn a_killed_tool_leaves_nothing() {
    let scene = Scene::new();
    let mut command = scene.command("zfile", &["out"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut tool = command.spawn().unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(tool.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "compress file stdin as out\n");
    // Larger than a pipe and all batches: some of it is in the output once this returns.
    let mut stdin = tool.stdin.take().unwrap();
    stdin.write_all(&noise(16 << 20)).unwrap();
    assert_eq!(scene.names(), Vec::<String>::new());
    tool.kill().unwrap();
    tool.wait().unwrap();
    assert_eq!(scene.names(), Vec::<String>::new());
}

#[test]
fn results_that_cannot_be_printed_are_a_failure() {
    let scene = Scene::new();
    let full = std::fs::File::options().write(true).open("/dev/full");
    let mut command = scene.command("create", &["d", "i", "1"]);
    let outcome = command.stdout(full.unwrap()).output().unwrap();
    assert_eq!(outcome.status.code(), Some(255));
    let stderr = String::from_utf8(outcome.stderr).unwrap();
    assert!(stderr.contains("write results"), "{stderr}");
}
