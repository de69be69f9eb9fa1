//! `overlaybd-zfile`: the C++ tool's bytes, forms and words.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;

use crate::support::{Scene, vector};

const INPUTS: [&str; 4] = ["empty", "one", "rnd-100001", "text-300000"];

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(vector(&format!("zfile/{name}"))).unwrap()
}

#[test]
fn compressing_gives_the_bytes_of_the_cpp_tool_and_extracting_the_input() {
    let scene = Scene::new();
    for input in INPUTS {
        scene.write("in", &bytes(input));
        for kib in ["4", "64"] {
            let line = format!("--bs={kib} in -f out");
            let outcome = scene.run("zfile", &line).succeeded();
            assert_eq!(
                outcome.stdout,
                "compress file in as out\ncompress file done.\n"
            );
            assert!(
                scene.read("out") == bytes(&format!("{input}.lz4.{kib}.zfile")),
                "{input}"
            );
            let outcome = scene.run("zfile", "-x -f out back").succeeded();
            let words = "decompress file out as back\ndecompress file done.\n";
            assert_eq!(
                (outcome.stdout.as_str(), outcome.stderr.as_str()),
                (words, "")
            );
            assert!(scene.read("back") == bytes(input), "{input}");
        }
    }
    let mode = scene.path("back").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn one_file_on_the_command_line_takes_what_comes_from_stdin() {
    let scene = Scene::new();
    let input = File::open(vector("zfile/text-300000")).unwrap();
    let mut command = scene.command("zfile", &["out"]);
    let outcome = command.stdin(input).output().unwrap();
    assert!(outcome.status.success(), "{outcome:?}");
    assert!(scene.read("out") == bytes("text-300000.lz4.4.zfile"));
    assert_eq!(
        outcome.stdout,
        b"compress file stdin as out\ncompress file done.\n"
    );
}

#[test]
fn a_tar_around_it_is_that_of_the_cpp_tool_and_is_unwrapped_when_asked_for() {
    let scene = Scene::new();
    scene.write("in", &bytes("text-300000"));
    scene.run("zfile", "-t in out").succeeded();
    let tar = bytes("text-300000.lz4.4.tar.zfile");
    // The mode inside follows the umask, which only shows with another one.
    assert!(scene.read("out") == tar);
    scene.run("zfile", "-x -t out back").succeeded();
    assert!(scene.read("back") == bytes("text-300000"));
    scene
        .run("zfile", "-x out back2")
        .failed(255, "decompress failed, errno:22");
    assert!(!scene.path("back2").exists());
    let verified = scene.run("zfile", "--verify out").succeeded();
    assert_eq!(verified.stdout, "out is a valid zfile blob.\n");
}

#[test]
fn a_damaged_block_is_found_and_nothing_is_extracted() {
    let scene = Scene::new();
    let mut damaged = bytes("text-300000.lz4.4.zfile");
    damaged[5000] ^= 1;
    scene.write("bad", &damaged);
    let outcome = scene
        .run("zfile", "--verify bad")
        .failed(255, "1 of 74 blocks are damaged");
    assert_eq!(
        outcome.stdout,
        "bad is not a valid zfile blob or checksum can't be found.\n"
    );
    scene
        .run("zfile", "-x bad out")
        .failed(255, "decompress failed, errno:");
    assert_eq!(scene.names(), ["bad"]);
    scene.write("text", b"hogwash");
    scene
        .run("zfile", "--verify text")
        .failed(255, "format error! <source_file> should be a zfile.");
}

#[test]
fn each_failure_has_the_exit_status_and_words_of_the_cpp_tool() {
    let scene = Scene::new();
    scene.write("in", b"x");
    scene.write("there", b"precious");
    let cases = [
        ("", 106, "source_file is required"),
        ("in out more", 109, "not expected: more"),
        ("in out --bs 3", 255, "invalid '--bs' parameters."),
        ("in out --bs", 114, "--bs: 1 required value missing"),
        ("nowhere out", 255, "failed to open file nowhere"),
        (
            "in there",
            255,
            "failed to open file 'there', 17: File exists",
        ),
        ("-x in", 255, "not stdin"),
        ("-x in there", 255, "17: File exists"),
        ("-f in in", 255, "the input and the output at once"),
        (
            "--verify nowhere",
            255,
            "failed to open file 'nowhere', 2: No such file",
        ),
    ];
    for (line, code, words) in cases {
        scene.run("zfile", line).failed(code, words);
        assert_eq!(scene.names(), ["in", "there"], "{line}");
    }
    assert_eq!(scene.read("there"), b"precious");
    assert_eq!(scene.read("in"), b"x");
    let outcome = scene.run("zfile", "in out --algorithm brotli").succeeded();
    assert!(outcome.stderr.contains("taking lz4"), "{outcome:?}");
}
