//! `obd` as its user meets it: results, exit codes, and what it says about bad input.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use layers::Service;
use layers::{Access, Image};

use crate::support::{config_over, layer_bytes, pattern, vector};

fn obd(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_obd"));
    command.args(args.iter().map(|arg| arg.as_ref().to_owned()));
    command.output().unwrap()
}

/// The command fails with exit code 1 and one line that holds each of `words`.
fn assert_fails(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for word in words {
        assert!(text.contains(word), "expected {word:?} in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// Exports an image of one lower with these bytes.
    fn export_layer(&self, bytes: &[u8]) -> Output {
        let layer = self.file("layer", bytes);
        self.export(&config_over(self.dir.path(), &[layer]))
    }

    fn export(&self, config: &Path) -> Output {
        obd(&[&"export", &config, &self.path("out.raw")])
    }

    /// What the daemon tells the snapshotter about the image of `config_over`.
    fn result(&self) -> String {
        let config = self.path("config.v1.json");
        drop(Image::open(&config, &Service::default(), Access::Read));
        std::fs::read_to_string(self.path("result")).unwrap()
    }
}

fn plain_layer() -> Vec<u8> {
    layer_bytes(1 << 20, &[(8, pattern(1, 8192))])
}

/// Replaces the first index entry.
fn with_entry(offset: u64, sectors: u64, moffset: u64) -> Vec<u8> {
    let mut bytes = plain_layer();
    let at = 4096 + 8192;
    let words = (u128::from(moffset) << 64) | u128::from(sectors << 50 | offset);
    bytes[at..at + 16].copy_from_slice(&words.to_le_bytes());
    bytes
}

#[test]
fn import_then_export_gives_the_same_disk_for_every_option() {
    let scene = Scene::new();
    let mut disk = vec![0; 300_000 / 512 * 512];
    disk[4096..50_000].copy_from_slice(&pattern(3, 45_904));
    disk[299_000..299_100].fill(1);
    let raw = scene.file("disk.raw", &disk);
    for options in [
        &["--algorithm", "lz4"][..],
        &["--algorithm", "zstd", "--bs", "64"],
        &[
            "--bs",
            "16",
            "--tar",
            "--uuid",
            "aaaaaaaa-0000-4000-8000-000000000001",
        ],
    ] {
        let (layer, out) = (scene.path("layer.obd"), scene.path("out.raw"));
        let mut args: Vec<&dyn AsRef<std::ffi::OsStr>> = vec![&"import", &raw, &layer, &"-f"];
        args.extend(
            options
                .iter()
                .map(|option| option as &dyn AsRef<std::ffi::OsStr>),
        );
        assert!(obd(&args).status.success());
        let config = config_over(scene.dir.path(), std::slice::from_ref(&layer));
        let done = obd(&[&"export", &config, &out, &"-f"]);
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        assert!(std::fs::read(&out).unwrap() == disk, "{options:?}");
        assert!(obd(&[&"verify", &config, &layer]).status.success());
        assert_eq!(scene.result(), "success");
    }
}

#[test]
fn info_tells_wrapper_compression_and_layer_as_json() {
    let output = obd(&[&"info", &"--json", &vector("native/layer2.obd")]);
    let info: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(info[0]["tar"]["payload_offset_bytes"], 1536);
    assert_eq!(info[0]["zfile"]["algorithm"], "zstd");
    assert_eq!(info[0]["zfile"]["block_bytes"], 8192);
    assert_eq!(info[0]["layer"]["virtual_size_bytes"], 1 << 30);
    assert_eq!(info[0]["layer"]["user_tag"], "layer2");
    assert_eq!(info[0]["layer"]["index_entries"], 256);
}

#[test]
fn bench_reads_an_image_and_reports_the_rate_as_json() {
    let scene = Scene::new();
    let config = config_over(scene.dir.path(), &[vector("native/layer0.obd")]);
    let output = obd(&[
        &"bench",
        &config,
        &"--seconds",
        &"1",
        &"--threads",
        &"2",
        &"--json",
    ]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["reads"].as_u64().unwrap() > 0, "{report}");
    assert!(
        report["latency_us"]["p99"].as_f64().unwrap() > 0.0,
        "{report}"
    );
}

#[test]
fn bad_usage_exits_with_2() {
    for args in [
        &["import"][..],
        &["import", "a", "b", "--bs", "5"],
        &["nonsense"],
    ] {
        let args: Vec<_> = args
            .iter()
            .map(|arg| arg as &dyn AsRef<std::ffi::OsStr>)
            .collect();
        assert_eq!(obd(&args).status.code(), Some(2));
    }
}

#[test]
fn a_missing_layer_is_named_and_the_result_file_says_so() {
    let scene = Scene::new();
    let config = config_over(scene.dir.path(), &[scene.path("gone")]);
    assert_fails(
        &scene.export(&config),
        &["open layer", "gone", "does not exist"],
    );
    assert_eq!(scene.result(), "failed:failed to open layer 0");
}

#[test]
fn tools_leave_the_result_file_alone() {
    let scene = Scene::new();
    let config = config_over(scene.dir.path(), &[scene.file("layer", &plain_layer())]);
    scene.file("result", b"precious");
    assert!(scene.export(&config).status.success());
    assert!(
        obd(&[&"bench", &config, &"--seconds", &"1"])
            .status
            .success()
    );
    assert_eq!(std::fs::read(scene.path("result")).unwrap(), b"precious");
}

#[test]
fn a_result_file_never_overwrites_a_layer_or_the_config() {
    let scene = Scene::new();
    let layer = scene.file("layer", &plain_layer());
    for victim in [layer.clone(), scene.path("c.json")] {
        let config = serde_json::json!({ "lowers": [{ "file": layer }], "resultFile": victim });
        let path = scene.file("c.json", config.to_string().as_bytes());
        let error = Image::open(&path, &Service::default(), Access::Read).unwrap_err();
        assert!(
            error.to_string().contains("would be overwritten"),
            "{error}"
        );
        assert!(std::fs::read(&layer).unwrap() == plain_layer());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), config.to_string());
    }
}

#[test]
fn results_that_cannot_be_printed_are_a_failure() {
    let full = std::fs::File::options()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_obd"));
    let output = command
        .arg("info")
        .arg(vector("native/layer0.obd"))
        .stdout(full)
        .output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("write results: No space left"));
}

#[test]
fn a_disk_image_is_not_replaced_by_its_own_layer() {
    let scene = Scene::new();
    let raw = scene.file("r", &pattern(1, 8192));
    assert_fails(
        &obd(&[&"import", &raw, &raw, &"-f"]),
        &["the output at once"],
    );
    assert!(std::fs::read(&raw).unwrap() == pattern(1, 8192));
}

#[test]
fn an_image_is_not_replaced_by_its_own_disk() {
    let scene = Scene::new();
    let layer = scene.file("layer", &plain_layer());
    let config = config_over(scene.dir.path(), std::slice::from_ref(&layer));
    for out in [&layer, &config] {
        let before = std::fs::read(out).unwrap();
        let output = obd(&[&"export", &config, out, &"-f"]);
        assert_fails(&output, &["the output at once"]);
        assert!(std::fs::read(out).unwrap() == before);
    }
}

#[test]
fn a_file_of_another_format_is_imported_with_a_warning() {
    let scene = Scene::new();
    for (bytes, words) in [
        (plain_layer(), "looks like a layer file"),
        ([&b"QFI\xfb"[..], &[0; 508]].concat(), "a qcow2 image"),
    ] {
        let raw = scene.file("r", &bytes);
        let output = obd(&[&"import", &raw, &scene.path("o"), &"-f"]);
        assert!(output.status.success(), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(words), "{told}");
    }
}

#[test]
fn a_fifo_is_refused_at_once() {
    let scene = Scene::new();
    let fifo = scene.path("fifo");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let words = [
        "open file",
        "fifo",
        "expected a regular file or block device",
    ];
    assert_fails(&obd(&[&"info", &fifo]), &words);
    assert_fails(&obd(&[&"import", &fifo, &scene.path("o")]), &words);
    assert_fails(
        &obd(&[&"import", &"/dev/null", &scene.path("o")]),
        &["/dev/null", "expected a"],
    );
}

#[test]
fn verify_reports_every_file_though_one_is_no_config() {
    let scene = Scene::new();
    let bad = scene.file("bad.json", b"{");
    let output = obd(&[&"verify", &vector("native/layer0.obd"), &bad]);
    assert_fails(
        &output,
        &[
            "layer0.obd: sound",
            "bad.json: cannot be checked",
            "not a valid config",
        ],
    );
    let config = config_over(scene.dir.path(), &[scene.path("gone")]);
    assert_fails(&obd(&[&"verify", &config]), &["gone", "does not exist"]);
}

#[test]
fn a_missing_config_is_named() {
    let scene = Scene::new();
    let output = scene.export(&scene.path("no.json"));
    assert_fails(&output, &["read image config", "no.json", "No such file"]);
}

#[test]
fn a_directory_is_no_layer_and_no_config() {
    let scene = Scene::new();
    let config = config_over(scene.dir.path(), &[scene.dir.path().to_owned()]);
    assert_fails(&scene.export(&config), &["found a directory"]);
    let path = scene.dir.path().display();
    assert_eq!(
        scene.result(),
        format!("failed:failed to open local file {path}")
    );
    assert_fails(
        &scene.export(scene.dir.path()),
        &["read image config", "directory"],
    );
}

#[test]
fn a_config_without_layers_is_refused() {
    let scene = Scene::new();
    for text in ["{}", r#"{"lowers":[]}"#] {
        let config = scene.file("empty.json", text.as_bytes());
        assert_fails(&scene.export(&config), &["the config names no layer"]);
    }
}

#[test]
fn a_config_of_256_layers_is_refused() {
    let scene = Scene::new();
    let layers = vec![vector("native/layer0.obd"); 256];
    let config = config_over(scene.dir.path(), &layers);
    assert_fails(&scene.export(&config), &["256 lowers, at most 255 allowed"]);
    let config = config_over(scene.dir.path(), &layers[..255]);
    let output = scene.export(&config);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_config_that_names_itself_as_its_layer_is_refused() {
    let scene = Scene::new();
    let config = scene.path("config.v1.json");
    config_over(scene.dir.path(), std::slice::from_ref(&config));
    assert_fails(&scene.export(&config), &["config.v1.json"]);
}

#[test]
fn absurd_configs_are_refused_with_the_place() {
    let scene = Scene::new();
    for text in [
        "",
        "{",
        "[1]",
        r#"{"lowers":"x"}"#,
        r#"{"lowers":[{"size":-1}]}"#,
        "{} {}",
    ] {
        let config = scene.file("bad.json", text.as_bytes());
        assert_fails(
            &scene.export(&config),
            &["read image config", "bad.json", "line 1"],
        );
    }
}

#[test]
fn what_later_versions_will_do_is_refused_in_words() {
    let scene = Scene::new();
    let upper = r#"{"upper":{"data":"/d","index":"/i","target":"/t"}}"#;
    let config = scene.file("c.json", upper.as_bytes());
    assert_fails(
        &scene.export(&config),
        &["turboOCI uppers", "not supported"],
    );
    let turbo = r#"{"lowers":[{"file":"/x","targetFile":"/y"}]}"#;
    let config = scene.file("c.json", turbo.as_bytes());
    assert_fails(
        &scene.export(&config),
        &["turboOCI layers", "not supported"],
    );
}

#[test]
fn a_layer_cut_short_anywhere_is_refused() {
    let scene = Scene::new();
    let bytes = plain_layer();
    for len in [0, 1, 511, 4095, 4096, 8191] {
        let words = ["open layer", "too few for a header and a trailer"];
        assert_fails(&scene.export_layer(&bytes[..len]), &words);
        assert_eq!(
            scene.result(),
            "failed:failed to open layer 0",
            "{len} bytes"
        );
    }
    for len in [8192, 12288, bytes.len() - 4096, bytes.len() - 1] {
        assert_fails(&scene.export_layer(&bytes[..len]), &["read layer trailer"]);
        assert_eq!(
            scene.result(),
            "failed:failed to open layer 0",
            "{len} bytes"
        );
    }
}

#[test]
fn wrong_magic_is_named_with_its_offset() {
    let scene = Scene::new();
    let mut bytes = plain_layer();
    bytes[0] = b'X';
    let words = ["read layer header", "at byte 0", "expected the LSMT magic"];
    assert_fails(&scene.export_layer(&bytes), &words);
    let mut bytes = plain_layer();
    let trailer_at = bytes.len() - 4096;
    bytes[trailer_at] = b'X';
    let place = format!("at byte {trailer_at}");
    assert_fails(&scene.export_layer(&bytes), &["read layer trailer", &place]);
}

#[test]
fn counts_beyond_limits_are_refused_before_anything_is_allocated() {
    let scene = Scene::new();
    for entries in [1_000_001_u64, u64::MAX, 1 << 60] {
        let mut bytes = plain_layer();
        let at = bytes.len() - 4096 + 40;
        bytes[at..at + 8].copy_from_slice(&entries.to_le_bytes());
        let words = ["read layer trailer", "at most 1000000 allowed"];
        assert_fails(&scene.export_layer(&bytes), &words);
    }
    let mut bytes = plain_layer();
    let at = bytes.len() - 4096 + 32;
    bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_fails(
        &scene.export_layer(&bytes),
        &["does not fit between header and trailer"],
    );
}

#[test]
fn broken_index_entries_are_named() {
    let scene = Scene::new();
    let moffset = scene.export_layer(&with_entry(8, 16, 9));
    assert_fails(
        &moffset,
        &["read layer index", "entry 0", "outside [8, 24)"],
    );
    let mut bytes = with_entry(8, 8, 8);
    let second = (u128::from(8_u64) << 64) | u128::from(8_u64 << 50 | 12);
    bytes[4096 + 8192 + 16..][..16].copy_from_slice(&second.to_le_bytes());
    let overlap = scene.export_layer(&bytes);
    assert_fails(
        &overlap,
        &["entry 1: starts at sector 12, the entry before ends at 16"],
    );
}

#[test]
fn a_flipped_data_byte_is_found_by_verify_and_export() {
    let scene = Scene::new();
    let mut bytes = std::fs::read(vector("native/layer0.obd")).unwrap();
    bytes[100_000] ^= 1;
    let layer = scene.file("flipped", &bytes);
    let verify = obd(&[&"verify", &layer]);
    assert_fails(
        &verify,
        &["DAMAGED: 1 fault", "checksum", "block", "at byte"],
    );
    let config = config_over(scene.dir.path(), std::slice::from_ref(&layer));
    assert_fails(
        &scene.export(&config),
        &["read zfile block", "flipped", "checksum"],
    );
    assert!(
        !scene.path("out.raw").exists(),
        "no half-written output under its final name"
    );
    assert_fails(&obd(&[&"verify", &config]), &["DAMAGED"]);
}

#[test]
fn an_existing_output_is_kept_without_force() {
    let scene = Scene::new();
    let out = scene.file("out.raw", b"precious");
    let output = scene.export_layer(&plain_layer());
    assert_fails(&output, &["exists already; -f replaces it"]);
    assert_eq!(std::fs::read(out).unwrap(), b"precious");
}

#[test]
fn import_of_nothing_sensible_is_refused() {
    let scene = Scene::new();
    let missing = obd(&[&"import", &scene.path("gone"), &scene.path("o")]);
    assert_fails(&missing, &["open file", "gone", "No such file"]);
    let directory = obd(&[&"import", &scene.dir.path(), &scene.path("o")]);
    assert_fails(&directory, &["found a directory"]);
    let empty = obd(&[&"import", &scene.file("e", b""), &scene.path("o")]);
    assert_fails(&empty, &["empty: not a disk"]);
    let nowhere = obd(&[
        &"import",
        &scene.file("r", b"x"),
        &Path::new("/nonexistent/o"),
    ]);
    assert_fails(&nowhere, &["write output file", "/nonexistent/o"]);
}

#[test]
fn an_output_that_is_no_regular_file_is_never_replaced() {
    let scene = Scene::new();
    let raw = scene.file("r", &pattern(1, 8192));
    for force in ["-f", "--json"] {
        let output = obd(&[&"import", &raw, &scene.dir.path(), &force]);
        assert_fails(&output, &["write output file", "not a regular file"]);
    }
    assert!(scene.dir.path().is_dir());
}

#[test]
fn a_full_disk_fails_the_import_and_leaves_nothing() {
    let scene = Scene::new();
    let raw = scene.file("r", &pattern(1, 1 << 20));
    let full = scene.path("full");
    std::fs::create_dir(&full).unwrap();
    let script = r#"mount -t tmpfs -o size=128k none "$1" || exit 99
        "$2" import "$3" "$1/out"; code=$?; ls -A "$1"; exit $code"#;
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .args([full, env!("CARGO_BIN_EXE_obd").into(), raw])
        .output()
        .unwrap();
    assert_fails(&output, &["/full/out", "No space left on device"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "nothing is left"
    );
}
