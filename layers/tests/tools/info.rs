//! `obd info` of writable layers.

use serde_json::{Value, json};

use crate::support::Scene;

fn info(scene: &Scene, files: &str) -> Value {
    let outcome = scene
        .run("obd", &format!("info --json {files}"))
        .succeeded();
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn a_pair_is_told_once_with_what_of_it_is_used() {
    let scene = Scene::with_writable_vectors();
    let told = info(&scene, "log.index log.data");
    assert_eq!(told.as_array().unwrap().len(), 1);
    let pair = &told[0]["writable"];
    assert_eq!(pair["index_file"], "log.index");
    assert_eq!(pair["sparse"], false);
    assert_eq!(pair["virtual_size_bytes"], 1 << 30);
    // The commit holds the same data, and no garbage.
    scene.write("committed", &scene.read("log.commit"));
    let committed = &info(&scene, "committed")[0]["layer"];
    assert_eq!(pair["used_bytes"], committed["data_bytes"]);
    assert_eq!(pair["zeroed_bytes"], committed["zeroed_bytes"]);
    let bytes = |key: &str| pair[key].as_u64().unwrap();
    assert!(bytes("garbage_bytes") > 0 && bytes("segments") > 0);
    assert!(bytes("on_host_bytes") > 0);
    let data = scene.read("log.data").len() as u64;
    assert_eq!(bytes("used_bytes") + bytes("garbage_bytes") + 4096, data);
}

#[test]
fn what_was_given_back_to_the_host_shows() {
    let scene = Scene::new();
    scene.run("create", "d i 1 -s").succeeded();
    let pair = &info(&scene, "d")[0]["writable"];
    assert!(pair["on_host_bytes"].as_u64().unwrap() < 1 << 20, "{pair}");
    let text = scene.run("obd", "info d").succeeded().stdout;
    assert!(text.contains("on host"), "{text}");
}

#[test]
fn the_other_file_is_found_beside_the_one_that_is_named() {
    let scene = Scene::with_writable_vectors();
    let both = info(&scene, "log.data log.index");
    assert_eq!(info(&scene, "log.data"), both);
    assert_eq!(info(&scene, "log.index"), both);
    std::fs::rename(scene.path("log.index"), scene.path("elsewhere")).unwrap();
    let outcome = scene
        .run("obd", "info log.data")
        .failed(1, "name its index file too");
    assert_eq!(outcome.stdout, "");
    assert_eq!(
        info(&scene, "elsewhere log.data")[0]["writable"]["index_file"],
        "elsewhere"
    );
    scene
        .run("obd", "info elsewhere")
        .failed(1, "name its data file too");
    // An index file of another layer is none of it.
    scene.run("create", "new.data log.index 1").succeeded();
    scene
        .run("obd", "info log.data")
        .failed(1, "name its index file too");
}

#[test]
fn a_sparse_layer_needs_no_index_file() {
    let scene = Scene::with_writable_vectors();
    let told = info(&scene, "sparse.data sparse.index");
    assert_eq!(told, info(&scene, "sparse.data"));
    assert_eq!(told[0]["writable"]["sparse"], true);
    assert_eq!(told[0]["writable"]["garbage_bytes"], json!(0));
    scene.run("obd", "info sparse.index").failed(1, "empty");
    let text = scene.run("obd", "info sparse.data").succeeded().stdout;
    assert!(text.contains("sparse writable layer"), "{text}");
}

#[test]
fn a_layer_that_is_being_written_is_told_to_be_busy() {
    let scene = Scene::with_writable_vectors();
    let (data, index) = (scene.path("log.data"), scene.path("log.index"));
    let _writer = layers::lsmt::Upper::open(&data, &index).unwrap();
    scene
        .run("obd", "info log.data log.index")
        .failed(1, "another process");
}
