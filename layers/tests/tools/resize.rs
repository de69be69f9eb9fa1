//! `overlaybd-resize`: the disk grows, and what is refused leaves it alone.

use crate::support::{Scene, native_layers};

fn disk_bytes(scene: &Scene) -> u64 {
    let outcome = scene.run("obd", "info --json d i").succeeded();
    let info: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    info[0]["writable"]["virtual_size_bytes"].as_u64().unwrap()
}

#[test]
fn the_disk_of_either_kind_grows_and_stays_so() {
    for kind in ["", "-s"] {
        let scene = Scene::new();
        scene.run("create", &format!("d i 1 {kind}")).succeeded();
        scene.config("image.json", &[], Some(("d", "i")));
        let line = "--config image.json --size=3";
        for _ in 0..2 {
            let outcome = scene.run("resize", line).succeeded();
            assert!(
                outcome
                    .stdout
                    .starts_with("Success: device resized to 3 GB ("),
                "{outcome:?}"
            );
            assert!(outcome.stdout.ends_with(" seconds)\n"), "{outcome:?}");
            assert_eq!(disk_bytes(&scene), 3 << 30);
        }
    }
}

#[test]
fn a_disk_with_an_ext4_file_system_grows_only_without_it() {
    let scene = Scene::new();
    scene.run("create", "d i 0").succeeded();
    scene.config("image.json", &native_layers(), Some(("d", "i")));
    let line = "--config image.json --size 3";
    scene.run("resize", line).failed(1, "ext4 file system");
    assert_eq!(disk_bytes(&scene), 1 << 30);
    scene
        .run("resize", &format!("{line} --device-only"))
        .succeeded();
    assert_eq!(disk_bytes(&scene), 3 << 30);
}

#[test]
fn what_cannot_be_done_is_refused_and_leaves_the_disk_alone() {
    let scene = Scene::new();
    scene.run("create", "d i 2").succeeded();
    scene.config("image.json", &[], Some(("d", "i")));
    scene.config("read-only.json", &native_layers(), None);
    let cases = [
        ("--config image.json --size 1", 1, "resize failed"),
        ("--config image.json --size 0", 1, "invalid size: 0"),
        ("--config image.json --size -3", 1, "invalid size: -3"),
        ("--config image.json --size 3G", 1, "invalid size: 3G"),
        (
            "--config nowhere --size 3",
            1,
            "failed to open overlaybd image",
        ),
        (
            "--config read-only.json --size 3",
            1,
            "the image has no upper",
        ),
        (
            "--config image.json --size 3 --service_config_path nowhere",
            1,
            "failed to create image service",
        ),
        ("--config image.json", 106, "--size is required"),
        ("--size 3", 106, "--config is required"),
        ("--config image.json --size 3 x", 109, "not expected: x"),
    ];
    for (line, code, words) in cases {
        let outcome = scene.run("resize", line).failed(code, words);
        assert_eq!(outcome.stdout, "", "{line}");
        assert_eq!(disk_bytes(&scene), 2 << 30, "{line}");
    }
}
