//! `obd verify` of writable layers.

use crate::support::{Scene, native_layers};

#[test]
fn the_writable_layer_of_an_image_is_verified_like_the_others() {
    let scene = Scene::with_writable_vectors();
    for name in ["log", "sparse"] {
        let (data, index) = (format!("{name}.data"), format!("{name}.index"));
        scene.config("image.json", &native_layers()[..2], Some((&data, &index)));
        let outcome = scene.run("obd", "verify image.json").succeeded();
        let last = outcome.stdout.lines().last().unwrap();
        assert!(last.starts_with(&format!("{data}: sound: ")), "{last}");
    }
    // The other layer's index file.
    scene.run("create", "new.data new.index 1").succeeded();
    scene.config(
        "image.json",
        &native_layers()[..2],
        Some(("log.data", "new.index")),
    );
    let outcome = scene.run("obd", "verify image.json").failed(1, "");
    assert!(
        outcome.stdout.contains("it belongs to layer"),
        "{outcome:?}"
    );
}

#[test]
fn a_file_of_a_writable_layer_is_not_called_damaged() {
    let scene = Scene::with_writable_vectors();
    scene.run("create", "new.data new.index 1").succeeded();
    for file in ["log.data", "log.index", "sparse.data", "new.data"] {
        let outcome = scene.run("obd", &format!("verify {file}")).failed(1, "");
        assert!(outcome.stdout.contains("cannot be checked"), "{outcome:?}");
        assert!(outcome.stdout.contains("has it as upper"), "{outcome:?}");
    }
    // Nor where it stands for a lower.
    for file in ["log.data", "sparse.data", "new.data"] {
        scene.config("image.json", &[scene.path(file)], None);
        scene
            .run("merge", "image.json out")
            .failed(255, "a writable layer that was never sealed");
    }
}
