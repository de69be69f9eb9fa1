//! `obd diff`: where two disks differ.

use crate::support::{Scene, native_layers, vector};

/// Three MiB and one sector, of which two sectors are not zero.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; (3 << 20) + 512];
    disk[5000] = 1;
    disk[3 << 20] = 1;
    disk
}

fn json(scene: &Scene, line: &str, code: i32) -> serde_json::Value {
    let outcome = scene.run("obd", &format!("diff --json {line}"));
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn a_raw_disk_is_the_same_as_the_layer_and_the_image_made_of_it() {
    let scene = Scene::new();
    scene.write("raw", &disk());
    scene.run("obd", "import raw layer").succeeded();
    scene.config("image.json", &[scene.path("layer")], None);
    for other in ["raw", "layer", "image.json"] {
        let outcome = scene.run("obd", &format!("diff raw {other}")).succeeded();
        assert_eq!(outcome.stdout, "the same: disks of 3.00 MiB\n");
    }
    let same = json(&scene, "layer image.json", 0);
    assert_eq!(same["same"], true);
    assert_eq!(same["sectors"], 0);
}

#[test]
fn mibs_that_differ_are_told_with_the_number_of_their_sectors() {
    let scene = Scene::new();
    let mut other = disk();
    scene.write("one", &other);
    other[0] = 1;
    other[1023] = 2;
    other[(1 << 20) - 1] = 3;
    other[1 << 20] = 4;
    other[3 << 20] = 5;
    scene.write("other", &other);
    let outcome = scene.run("obd", "diff one other").failed(1, "");
    let text = "MiB 0 to 1: 4 sectors\nMiB 3: 1 sector\n5 sectors different\n";
    assert_eq!(outcome.stdout, text);
    let report = json(&scene, "other one", 1);
    let ranges = serde_json::json!([
        { "first_mib": 0, "last_mib": 1, "sectors": 4 },
        { "first_mib": 3, "last_mib": 3, "sectors": 1 },
    ]);
    assert_eq!(report["ranges"], ranges);
    assert_eq!(report["sectors"], 5);
    assert_eq!(report["same"], false);
}

#[test]
fn disks_of_different_sizes_differ_even_when_the_rest_is_zero() {
    let scene = Scene::new();
    scene.write("short", &disk());
    let mut long = disk();
    long.resize(6 << 20, 0);
    scene.write("long", &long);
    let outcome = scene.run("obd", "diff short long").failed(1, "");
    assert!(
        outcome
            .stdout
            .contains("3146240 bytes short, 6291456 bytes long"),
        "{outcome:?}"
    );
    long[5 << 20] = 1;
    scene.write("long", &long);
    let report = json(&scene, "long short", 1);
    assert_eq!(
        report["sizes_bytes"],
        serde_json::json!([6 << 20, (3 << 20) + 512])
    );
    assert_eq!(report["ranges"][0]["first_mib"], 5);
}

#[test]
fn what_a_writable_layer_changed_is_found_whichever_way_it_is_kept() {
    let scene = Scene::with_writable_vectors();
    let lowers = native_layers()[..2].to_vec();
    let with = |layer: &str| [lowers.clone(), vec![scene.path(layer)]].concat();
    scene.config("lowers.json", &lowers, None);
    scene.config("log.json", &lowers, Some(("log.data", "log.index")));
    scene.config("sealed.json", &with("log.seal.data"), None);
    scene.config("committed.json", &with("log.commit"), None);
    scene.run("obd", "diff log.json sealed.json").succeeded();
    scene
        .run("obd", "diff sealed.json committed.json")
        .succeeded();
    let changed = json(&scene, "lowers.json log.json", 1);
    // What writes.txt writes to, and nothing else.
    let script = std::fs::read_to_string(vector("writable/writes.txt")).unwrap();
    let mut sectors = std::collections::BTreeSet::new();
    for line in script.lines().filter(|line| line.starts_with("write ")) {
        let words: Vec<u64> = line
            .split(' ')
            .skip(1)
            .map(|word| word.parse().unwrap())
            .collect();
        sectors.extend(words[0]..words[0] + words[1]);
    }
    let most = changed["sectors"].as_u64().unwrap();
    assert!(
        most > 0 && most <= sectors.len() as u64,
        "{most} of {}",
        sectors.len()
    );
    for range in changed["ranges"].as_array().unwrap() {
        let first = range["first_mib"].as_u64().unwrap();
        assert!(
            sectors
                .range(first * 2048..(first + 1) * 2048)
                .next()
                .is_some(),
            "{range}"
        );
    }
}

#[test]
fn trouble_has_an_exit_status_of_its_own() {
    let scene = Scene::with_writable_vectors();
    scene.write("raw", &disk());
    scene.run("obd", "diff raw nowhere").failed(2, "nowhere");
    scene
        .run("obd", "diff raw log.data")
        .failed(2, "never sealed");
    scene.run("obd", "diff raw").failed(2, "required");
    // The header of a layer alone: what it is taken for shows.
    scene.write("short", &scene.read("log.commit")[..1000]);
    let outcome = scene.run("obd", "diff log.commit short");
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains("1000 bytes short (raw disk)"));
    scene.write("bad.json", b"{");
    scene.run("obd", "diff bad.json raw").failed(2, "bad.json");
    scene.config("gone.json", &[scene.path("gone")], None);
    scene
        .run("obd", "diff raw gone.json")
        .failed(2, "gone.json");
    let (data, index) = (scene.path("log.data"), scene.path("log.index"));
    let _writer = layers::lsmt::Upper::open(&data, &index).unwrap();
    scene.config("log.json", &[], Some(("log.data", "log.index")));
    scene
        .run("obd", "diff log.json raw")
        .failed(2, "another process");
}
