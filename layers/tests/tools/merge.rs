//! `overlaybd-merge`: layers of an image to one.

use crate::support::{Scene, native_layers, vector};

#[test]
fn merging_the_native_layers_gives_the_bytes_of_the_cpp_tool() {
    let scene = Scene::new();
    scene.config("image.json", &native_layers(), None);
    let outcome = scene.run("merge", "image.json merged").succeeded();
    // The line for the digest of an upload.
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("", "\n")
    );
    assert!(scene.read("merged") == std::fs::read(vector("native/merged.obd")).unwrap());
    for threads in ["1", "3"] {
        // An output that exists is replaced.
        let line = format!("image.json --compress_threads={threads} --compress -t merged");
        scene.run("merge", &line).succeeded();
        assert!(scene.read("merged") == std::fs::read(vector("native/merged.obd")).unwrap());
    }
}

#[test]
fn without_compression_the_payload_is_the_same() {
    let scene = Scene::new();
    scene.config("image.json", &native_layers(), None);
    scene
        .run("merge", "--compress=false image.json plain")
        .succeeded();
    let merged = vector("native/merged.obd");
    let args = ["-x", merged.to_str().unwrap(), "unpacked"];
    assert!(
        scene
            .command("zfile", &args)
            .output()
            .unwrap()
            .status
            .success()
    );
    assert!(scene.read("plain") == scene.read("unpacked"));
}

#[test]
fn a_writable_image_is_flattened_to_what_its_guest_sees() {
    let scene = Scene::with_writable_vectors();
    let lowers = &native_layers()[..2];
    for kind in ["log", "sparse"] {
        let (data, index) = (format!("{kind}.data"), format!("{kind}.index"));
        scene.config("image.json", lowers, Some((&data, &index)));
        scene.run("merge", "image.json merged").succeeded();
        let outcome = scene.run("obd", "diff image.json merged").succeeded();
        assert_eq!(outcome.stdout, "the same: disks of 1.00 GiB\n");
    }
}

#[test]
fn a_disk_that_was_made_larger_stays_so() {
    let scene = Scene::with_writable_vectors();
    let lowers = &native_layers()[..2];
    scene.config("image.json", lowers, Some(("log.data", "log.index")));
    scene
        .run("resize", "--config image.json --size 2 --device-only")
        .succeeded();
    scene.run("merge", "image.json merged").succeeded();
    let outcome = scene.run("obd", "diff image.json merged").succeeded();
    assert_eq!(outcome.stdout, "the same: disks of 2.00 GiB\n");
}

#[test]
fn each_failure_has_the_exit_status_and_words_of_the_cpp_tool() {
    let scene = Scene::new();
    let missing = vec![scene.path("missing.obd")];
    scene.config("missing.json", &missing, None);
    scene.config("image.json", &native_layers(), None);
    scene.write("bad.json", b"{");
    let cases = [
        ("", 106, "image_config_path is required"),
        (
            "nowhere.json out",
            105,
            "image_config_path: File does not exist: nowhere.json",
        ),
        (
            "image.json out --service_config_path nowhere",
            105,
            "--service_config_path: File does",
        ),
        ("image.json", 255, "failed to create output file"),
        (
            "image.json nowhere/out",
            255,
            "failed to create output file",
        ),
        ("bad.json out", 255, "bad.json"),
        ("missing.json out", 255, "failed to compact, 2: "),
        ("image.json out --upload http://x", 255, "does not upload"),
        ("image.json out x", 109, "not expected: x"),
    ];
    for (line, code, words) in cases {
        scene.run("merge", line).failed(code, words);
        assert!(!scene.path("out").exists(), "{line}");
    }
}

#[test]
fn the_config_is_not_replaced_by_the_result() {
    let scene = Scene::new();
    scene.config("image.json", &native_layers(), None);
    let config = scene.read("image.json");
    scene
        .run("merge", "image.json image.json")
        .failed(255, "the input and the output at once");
    assert!(scene.read("image.json") == config);
}

#[test]
fn a_layer_of_the_image_is_not_replaced_by_the_result() {
    let scene = Scene::new();
    std::fs::copy(vector("native/layer0.obd"), scene.path("layer")).unwrap();
    let before = scene.read("layer");
    scene.config("image.json", &[scene.path("layer")], None);
    scene
        .run("merge", "image.json layer")
        .failed(255, "the input and the output at once");
    assert!(scene.read("layer") == before);
}
