//! `overlaybd-commit`: the C++ tool's bytes, exit statuses and words.

use crate::support::{Scene, vector};

const UUIDS: [(&str, &str); 2] = [
    ("log", "bbbbbbbb-0000-4000-8000-000000000001"),
    ("sparse", "bbbbbbbb-0000-4000-8000-000000000002"),
];

const DONE: &str = "overlaybd-commit has committed files SUCCESSFULLY\n";

/// The line for the digest of an upload.
const NO_DIGEST: &str = "\n";

#[test]
fn a_commit_of_either_kind_is_byte_for_byte_that_of_the_cpp_tool() {
    let scene = Scene::with_writable_vectors();
    for (name, uuid) in UUIDS {
        let line = format!("{name}.data {name}.index out --uuid {uuid} -f");
        let outcome = scene.run("commit", &line).succeeded();
        assert_eq!(outcome.stdout, DONE);
        let expected = scene.read(&format!("{name}.commit"));
        assert!(scene.read("out") == expected, "{name}");
    }
}

#[test]
fn a_sealed_file_commits_to_the_same_bytes_as_the_pair() {
    let scene = Scene::with_writable_vectors();
    let (_, uuid) = UUIDS[0];
    let line = format!("--commit_sealed log.seal.data out --uuid {uuid}");
    scene.run("commit", &line).succeeded();
    assert!(scene.read("out") == scene.read("log.commit"));
}

#[test]
fn the_sealed_file_is_that_of_the_cpp_tool_up_to_the_uninitialised_filler() {
    let scene = Scene::with_writable_vectors();
    let outcome = scene.run("commit", "--seal log.data log.index").succeeded();
    assert_eq!(outcome.stdout + &outcome.stderr, "");
    let (ours, theirs) = (scene.read("log.data"), scene.read("log.seal.data"));
    assert_eq!(ours.len(), theirs.len());
    let trailer = theirs.len() - 4096;
    let field = |at: usize| {
        let bytes = theirs[trailer + at..][..8].try_into().unwrap();
        usize::try_from(u64::from_le_bytes(bytes)).unwrap()
    };
    let index_end = field(32) + 16 * field(40);
    assert!(ours[..index_end] == theirs[..index_end]);
    assert!(ours[trailer..] == theirs[trailer..]);
    scene
        .run("commit", "--seal log.data log.index")
        .failed(255, "failed to perform seal, 22: ");
}

#[test]
fn a_compressed_commit_unpacks_to_the_plain_one_for_every_option() {
    let scene = Scene::with_writable_vectors();
    scene.run("commit", "log.data log.index plain").succeeded();
    let plain = scene.read("plain");
    for options in [
        "-z",
        "-zt",
        "-z -t --algorithm=zstd --bs 16",
        "-z=true --bs=64 --compress_threads 3 --fastoci=false",
    ] {
        let line = format!("log.data {options} log.index -f out");
        let outcome = scene.run("commit", &line).succeeded();
        assert_eq!(
            (outcome.stdout.as_str(), outcome.stderr.as_str()),
            (DONE, NO_DIGEST)
        );
        let unpack = match options.contains('t') && options.starts_with("-z") {
            true => "-x -t -f out unpacked",
            false => "-x -f out unpacked",
        };
        scene.run("zfile", unpack).succeeded();
        assert!(scene.read("unpacked") == plain, "{options}");
        let verified = scene.run("zfile", "--verify out").succeeded();
        assert_eq!(verified.stdout, "out is a valid zfile blob.\n");
    }
}

#[test]
fn the_number_of_threads_does_not_change_the_bytes() {
    let scene = Scene::with_writable_vectors();
    for threads in ["1", "2", "7", "0"] {
        let line = format!("log.data log.index out{threads} -z --compress_threads {threads}");
        scene.run("commit", &line).succeeded();
        assert!(scene.read(&format!("out{threads}")) == scene.read("out1"));
    }
}

#[test]
fn names_and_text_are_taken_and_bad_names_ignored() {
    let scene = Scene::new();
    scene
        .run("create", "d i 1 -u bbbbbbbb-0000-4000-8000-00000000000b")
        .succeeded();
    let of = |name: &str| -> (String, String, String) {
        let outcome = scene.run("obd", &format!("info --json {name}")).succeeded();
        let info: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        let layer = &info[0]["layer"];
        let text = |key: &str| layer[key].as_str().unwrap().to_owned();
        (text("uuid"), text("parent_uuid"), text("user_tag"))
    };
    let nil = "00000000-0000-0000-0000-000000000000";
    let parent = "BBBBBBBB-0000-4000-8000-00000000000B";
    scene.run("commit", "d i plain").succeeded();
    assert_eq!(of("plain"), (nil.into(), parent.into(), String::new()));
    let uuid = "cccccccc-0000-4000-8000-00000000000c";
    let line = format!("d i named -m tag --uuid {uuid} --parent-uuid={uuid}");
    scene.run("commit", &line).succeeded();
    let upper = uuid.to_uppercase();
    assert_eq!(of("named"), (upper.clone(), upper, "tag".into()));
    scene.run("commit", "d i bad --uuid 7 -p x").succeeded();
    assert_eq!(of("bad"), (nil.into(), parent.into(), String::new()));
    let long = "x".repeat(257);
    scene
        .run("commit", &format!("d i long -m {long}"))
        .failed(255, "the text has 257 bytes, at most 256");
}

#[test]
fn each_bad_command_line_has_the_exit_status_of_the_cpp_tool() {
    let scene = Scene::with_writable_vectors();
    let cases = [
        ("", 106, "data_file is required"),
        (
            "nowhere log.index out",
            105,
            "data_file: File does not exist: nowhere",
        ),
        ("log.data log.index out more", 109, "not expected: more"),
        ("log.data log.index out --no", 109, "not expected: --no"),
        ("log.data log.index out --bs x", 104, "--bs"),
        (
            "log.data log.index out -z --bs 3",
            255,
            "invalid '--bs' parameters.",
        ),
        (
            "log.data log.index out -z --algorithm gzip",
            255,
            "invalid '--algorithm' parameters.",
        ),
        ("log.data log.index", 255, "commit_file is required"),
        ("log.data", 255, "index_file is required"),
        ("log.data --seal", 255, "index_file is required for --seal"),
        (
            "log.data nowhere out",
            255,
            "failed to perform commit(), 2: ",
        ),
        (
            "log.data log.index out --turboOCI",
            255,
            "turboOCI layers are not supported",
        ),
        (
            "log.data log.index out --fastoci",
            255,
            "turboOCI layers are not supported",
        ),
        (
            "log.data log.index out -z --upload http://x",
            255,
            "does not upload",
        ),
        ("--commit_sealed log.data out", 255, "never sealed"),
        (
            "log.data sparse.index out",
            255,
            "failed to perform commit(), 22: ",
        ),
        (
            "log.data log.index log.index/out",
            255,
            "failed to open file 'log.index/out', 20: ",
        ),
        (
            "log.seal.data log.index out",
            255,
            "the layer was sealed: it is a read-only one now",
        ),
    ];
    for (line, code, words) in cases {
        let outcome = scene.run("commit", line).failed(code, words);
        assert_eq!(outcome.stdout, "", "{line}");
        let hint = "\nRun with --help for more information.\n";
        assert_eq!(outcome.stderr.ends_with(hint), code < 255, "{line}");
        assert!(!scene.path("out").exists(), "{line}");
    }
    let help = scene.run("commit", "--help").succeeded();
    assert!(help.stdout.contains("--commit_sealed") && help.stderr.is_empty());
}

#[test]
fn without_z_a_warning_says_what_is_ignored_and_t_does_nothing() {
    let scene = Scene::with_writable_vectors();
    let outcome = scene.run("commit", "log.data log.index out -t").succeeded();
    let warning = "WARNING option '--bs' and '--algorithm' will be ignored without '-z'\n";
    assert_eq!(outcome.stderr, format!("{warning}{NO_DIGEST}"));
    scene.run("commit", "log.data log.index plain").succeeded();
    assert!(scene.read("out") == scene.read("plain"));
}

#[test]
fn an_existing_file_is_kept_without_f_and_a_source_with_it() {
    let scene = Scene::with_writable_vectors();
    scene.write("out", b"precious");
    scene
        .run("commit", "log.data log.index out")
        .failed(255, "failed to open file 'out', 17: File exists");
    assert_eq!(scene.read("out"), b"precious");
    let data = scene.read("log.data");
    scene
        .run("commit", "log.data log.index -f log.data")
        .failed(255, "the input and the output at once");
    assert!(scene.read("log.data") == data);
}

#[test]
fn a_layer_that_is_being_written_is_not_committed() {
    let scene = Scene::with_writable_vectors();
    let (data, index) = (scene.path("log.data"), scene.path("log.index"));
    let writer = layers::lsmt::Upper::open(&data, &index).unwrap();
    scene
        .run("commit", "log.data log.index out")
        .failed(255, "failed to perform commit(), 16: ");
    scene
        .run("commit", "--seal log.data log.index")
        .failed(255, "failed to perform seal, 16: ");
    drop(writer);
    scene.run("commit", "log.data log.index out").succeeded();
}

#[test]
fn a_compressed_layer_commits_again_with_another_algorithm() {
    let scene = Scene::new();
    let layer = vector("native/layer1.obd");
    let args = [
        "--commit_sealed",
        layer.to_str().unwrap(),
        "out",
        "-z",
        "--algorithm",
        "zstd",
    ];
    let outcome = scene.command("commit", &args).output().unwrap();
    assert!(outcome.status.success(), "{outcome:?}");
    let diff = ["diff", layer.to_str().unwrap(), "out"];
    let outcome = scene.command("obd", &diff).output().unwrap();
    assert!(outcome.status.success(), "{outcome:?}");
}
