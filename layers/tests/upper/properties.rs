//! A disk made of writable layers, whatever is done to it, reads like a plain array of bytes.
//!
//! A failure that is found becomes a test of its own below, with the actions that proptest prints.

use std::fs::File;
use std::path::PathBuf;

use layers::Image;
use layers::config::UpperConfig;
use layers::lsmt::Layer;
use layers::lsmt::compact::{CompactOptions, commit, flatten};
use layers::lsmt::upper::{UpperKind, open_read_only, seal};
use proptest::prelude::*;

use crate::support::{Pair, layer, quick_scratch};

const SECTORS: usize = 512;
const SECTOR: usize = 512;
const DISK_BYTES: u64 = (SECTORS * SECTOR) as u64;

/// Most layers below the writable one.
const LOWERS_MAX: usize = 5;

#[derive(Debug, Clone)]
enum Action {
    Write {
        first: usize,
        sectors: usize,
    },
    Zeroes {
        first: usize,
        sectors: usize,
    },
    Flush,
    /// Close and open again.
    Reopen,
    /// Seal while it is open, and go on with a new layer of a kind.
    Restack(UpperKind),
    /// Close, seal, and go on with a new layer of a kind.
    Seal(UpperKind),
    /// Close, commit to a new file, and go on with a new layer of a kind.
    Commit(UpperKind),
    /// Close, make all layers one, and go on with a new layer of a kind.
    Flatten(UpperKind),
}

fn kind() -> impl Strategy<Value = UpperKind> {
    prop_oneof![Just(UpperKind::AppendOnly), Just(UpperKind::Sparse)]
}

fn extent() -> impl Strategy<Value = (usize, usize)> {
    // Mostly whole blocks, as file systems write.
    let blocks = (0..SECTORS / 8 - 4, 1..5_usize).prop_map(|(first, count)| (first * 8, count * 8));
    let sectors = (0..SECTORS - 20, 1..20_usize);
    let much = (0..SECTORS / 2, 1..SECTORS / 2);
    prop_oneof![6 => blocks, 3 => sectors, 1 => much]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        12 => extent().prop_map(|(first, sectors)| Action::Write { first, sectors }),
        4 => extent().prop_map(|(first, sectors)| Action::Zeroes { first, sectors }),
        1 => Just(Action::Flush),
        2 => Just(Action::Reopen),
        1 => kind().prop_map(Action::Restack),
        1 => kind().prop_map(Action::Seal),
        1 => kind().prop_map(Action::Commit),
        1 => kind().prop_map(Action::Flatten),
    ]
}

/// A disk on files, and what it must read as.
struct Scene {
    dir: tempfile::TempDir,
    lowers: Vec<PathBuf>,
    top: Pair,
    image: Option<Image>,
    model: Vec<u8>,
    stamp: u64,
    tops: usize,
}

impl Scene {
    fn new(kind: UpperKind) -> Self {
        let dir = quick_scratch();
        let top = Pair::create(dir.path(), "0", kind, DISK_BYTES);
        let image = Some(top.image(Vec::new()));
        Self {
            dir,
            lowers: Vec::new(),
            tops: 1,
            top,
            image,
            model: vec![0; SECTORS * SECTOR],
            stamp: 0,
        }
    }

    fn image(&self) -> &Image {
        self.image.as_ref().unwrap()
    }

    fn lowers(&self) -> Vec<Layer> {
        self.lowers.iter().map(|path| layer(path)).collect()
    }

    /// A new layer becomes the top; returns the old one.
    fn new_top(&mut self, kind: UpperKind) -> Pair {
        let name = self.tops.to_string();
        self.tops += 1;
        let new = Pair::create(self.dir.path(), &name, kind, DISK_BYTES);
        std::mem::replace(&mut self.top, new)
    }

    fn open(&mut self) {
        self.image = Some(self.top.image(self.lowers()));
    }

    /// A file for a layer that is made of others.
    fn new_layer(&self) -> (PathBuf, File) {
        let path = self.dir.path().join(format!("{}.layer", self.tops));
        let file = File::create_new(&path).unwrap();
        (path, file)
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Write { first, sectors } => {
                self.stamp += 1;
                let text = format!("{} ", self.stamp);
                let data: Vec<u8> = text.bytes().cycle().take(sectors * SECTOR).collect();
                self.image()
                    .write_at((first * SECTOR) as u64, &data)
                    .unwrap();
                self.model[first * SECTOR..][..data.len()].copy_from_slice(&data);
            }
            Action::Zeroes { first, sectors } => {
                let (offset, len) = ((first * SECTOR) as u64, (sectors * SECTOR) as u64);
                self.image().write_zeroes_at(offset, len).unwrap();
                self.model[first * SECTOR..][..sectors * SECTOR].fill(0);
            }
            Action::Flush => self.image().flush().unwrap(),
            Action::Reopen => {
                self.image = None;
                self.open();
            }
            Action::Restack(kind) if self.lowers.len() < LOWERS_MAX => {
                let old = self.new_top(kind);
                let new = UpperConfig {
                    data: self.top.data.clone(),
                    index: self.top.index.clone(),
                    ..UpperConfig::default()
                };
                self.image().restack(&new).unwrap();
                self.lowers.push(old.data);
            }
            Action::Seal(kind) if self.lowers.len() < LOWERS_MAX => {
                self.image = None;
                let old = self.new_top(kind);
                seal(&old.data, &old.index).unwrap();
                self.lowers.push(old.data);
                self.open();
            }
            Action::Commit(kind) if self.lowers.len() < LOWERS_MAX => {
                self.image = None;
                let (path, file) = self.new_layer();
                let old = self.new_top(kind);
                let upper = open_read_only(&old.data, &old.index).unwrap();
                commit(&upper, &CompactOptions::default(), file, &mut |_, _| {}).unwrap();
                self.lowers.push(path);
                self.open();
            }
            Action::Flatten(kind) => {
                self.image = None;
                let (path, file) = self.new_layer();
                let old = self.new_top(kind);
                let upper = open_read_only(&old.data, &old.index).unwrap();
                let options = CompactOptions::default();
                flatten(self.lowers(), upper, &options, file, &mut |_, _| {}).unwrap();
                self.lowers = vec![path];
                self.open();
            }
            Action::Restack(_) | Action::Seal(_) | Action::Commit(_) => {}
        }
    }

    fn check(&self, image: &Image, what: &str) {
        let mut disk = vec![1; self.model.len()];
        image.read_exact_at(0, &mut disk).unwrap();
        let wrong = disk.iter().zip(&self.model).position(|(a, b)| a != b);
        assert_eq!(
            wrong.map(|byte| byte / SECTOR),
            None,
            "{what}: first wrong sector"
        );
    }
}

fn run(kind: UpperKind, actions: &[Action]) {
    let mut scene = Scene::new(kind);
    for (number, action) in actions.iter().enumerate() {
        scene.act(action);
        if number % 4 == 0 {
            scene.check(scene.image(), &format!("after action {number}, {action:?}"));
        }
    }
    scene.check(scene.image(), "at the end");
    scene.image = None;
    let mut layers = scene.lowers();
    layers.push(open_read_only(&scene.top.data, &scene.top.index).unwrap());
    scene.check(
        &Image::from_layers(layers, "").unwrap(),
        "opened for reading",
    );
    scene.check(&scene.top.image(scene.lowers()), "opened for writing");
}

#[test]
fn a_zeroed_part_of_a_block_stays_zero_after_restack_and_reopen() {
    use Action::{Reopen, Restack, Write, Zeroes};
    for kind in [UpperKind::AppendOnly, UpperKind::Sparse] {
        let write = Write {
            first: 0,
            sectors: 16,
        };
        let zeroes = Zeroes {
            first: 3,
            sectors: 7,
        };
        run(kind, &[write, Restack(kind), zeroes, Reopen]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_of_actions_reads_like_an_array(
        kind in kind(),
        actions in prop::collection::vec(action(), 1..40),
    ) {
        run(kind, &actions);
    }
}
