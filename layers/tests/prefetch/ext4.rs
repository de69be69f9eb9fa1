//! The reader of ext4, against file systems that mke2fs made and what debugfs says of them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use layers::ReadAt;
use layers::io::{LocalFile, MemoryFile};
use layers::prefetch::Ext4;
use tempfile::TempDir;

/// Every shape that mke2fs gives a file system and that matters for finding files.
const SHAPES: [&[&str]; 8] = [
    &["-t", "ext4", "-b", "4096"],
    &["-t", "ext4", "-b", "65536"],
    &["-t", "ext4", "-b", "1024"],
    &[
        "-t",
        "ext4",
        "-O",
        "^64bit,^metadata_csum,^flex_bg",
        "-I",
        "128",
    ],
    &["-t", "ext4", "-O", "bigalloc"],
    &["-t", "ext3", "-b", "1024"],
    &["-t", "ext2", "-b", "4096"],
    &["-t", "ext2", "-b", "1024", "-r", "1", "-N", "4096"],
];

struct Made {
    dir: TempDir,
}

impl Made {
    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn open(&self) -> LocalFile {
        LocalFile::open(&self.image()).unwrap()
    }
}

fn make_file_system(root: &Path, image: &Path, size: &str, shape: &[&str]) {
    let mut command = Command::new("/usr/sbin/mke2fs");
    command.args(["-q", "-F", "-d"]).arg(root).args(shape);
    let output = command.arg(image).arg(size).output().unwrap();
    assert!(output.status.success(), "{shape:?}: {output:?}");
}

/// A tree of files of all sizes, in a file system of that shape.
fn made(shape: &[&str]) -> Made {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let made = Made { dir };
    let root = made.root();
    for name in ["bin", "lib/deep/er", "many", "empty"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    let write = |name: &str, bytes: Vec<u8>| std::fs::write(root.join(name), bytes).unwrap();
    write("bin/tool", pattern(1, 300_000));
    write("bin/nothing", Vec::new());
    write("lib/one", pattern(2, 1));
    write("lib/deep/block", pattern(3, 4096));
    // Through all levels of a block map of 1 KiB blocks.
    write("lib/deep/er/large", pattern(4, 70_000_000));
    for number in 0..1500 {
        let name = format!("many/a-rather-long-name-so-that-the-directory-grows-{number}");
        write(&name, pattern(number, 10));
    }
    // Every second piece is a hole: an extent for each other one.
    let sparse = std::fs::File::create(root.join("lib/sparse")).unwrap();
    for piece in 0..1200 {
        let bytes = pattern(piece, 4096);
        sparse.write_all_at(&bytes, piece * 8192).unwrap();
    }
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, root.join(name)).unwrap();
    };
    link("bin", "sbin");
    link("../lib/deep/block", "bin/relative");
    link("/lib/one", "lib/deep/absolute");
    link(&format!("{}lib/one", "./".repeat(100)), "long-link");
    link("loop-b", "loop-a");
    link("loop-a", "loop-b");
    link("nowhere", "dangling");
    make_file_system(&root, &made.image(), "320M", shape);
    made
}

/// Bytes that no two blocks share.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

fn content(disk: &dyn ReadAt, file_system: &Ext4<'_>, inode: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for range in file_system.ranges(inode).unwrap() {
        let mut part = vec![0; usize::try_from(range.end - range.start).unwrap()];
        disk.read_exact_at(range.start, &mut part).unwrap();
        bytes.extend(part);
    }
    bytes
}

/// The data of a file without its holes, to whole blocks.
fn without_holes(path: &Path, shape: &[&str]) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    // No hole is smaller than a block.
    let pieces = bytes.chunks(if shape.contains(&"65536") {
        65536
    } else {
        4096
    });
    let pieces = pieces.filter(|piece| piece.iter().any(|byte| *byte != 0));
    pieces.flatten().copied().collect()
}

fn debugfs(image: &Path, request: &str) -> String {
    let mut command = Command::new("/usr/sbin/debugfs");
    let output = command.arg("-R").arg(request).arg(image).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn file_systems_of_every_shape_are_read_as_debugfs_reads_them() {
    for shape in SHAPES {
        let made = made(shape);
        let disk = made.open();
        check_content(shape, &made, &disk);
        check_blocks(shape, &made, &disk);
        check_links(shape, &disk);
        check_trees(shape, &disk);
    }
}

/// Every file is found, and its ranges hold its bytes.
fn check_content(shape: &[&str], made: &Made, disk: &dyn ReadAt) {
    let file_system = Ext4::open(disk).unwrap();
    let files = [
        "bin/tool",
        "/lib/one",
        "lib//deep/./block",
        "/lib/deep/er/large",
        "lib/sparse",
        "bin/../lib/one",
        "many/a-rather-long-name-so-that-the-directory-grows-1499",
    ];
    for name in files {
        let inode = file_system
            .find(name)
            .unwrap_or_else(|error| panic!("{shape:?}: {name}: {error}"));
        let inode = inode.unwrap_or_else(|| panic!("{shape:?}: no {name}"));
        let expected = without_holes(&made.root().join(name.trim_start_matches('/')), shape);
        let mut found = content(disk, &file_system, inode);
        assert!(found.len() - expected.len() < 65536, "{shape:?}: {name}");
        found.truncate(expected.len());
        assert!(found == expected, "{shape:?}: {name}");
    }
    let nothing = file_system.find("bin/nothing").unwrap().unwrap();
    assert_eq!(file_system.ranges(nothing).unwrap(), []);
    for name in ["bin/tools", "many/x", "bin/tool/x", "lost+found/x", "x"] {
        assert_eq!(file_system.find(name).unwrap(), None, "{shape:?}: {name}");
    }
}

/// The blocks are those that debugfs names.
fn check_blocks(shape: &[&str], made: &Made, disk: &dyn ReadAt) {
    let file_system = Ext4::open(disk).unwrap();
    let stats = debugfs(&made.image(), "stats -h");
    let block_bytes: u64 = stats
        .lines()
        .find_map(|line| line.strip_prefix("Block size:"))
        .map(|bytes| bytes.trim().parse().unwrap())
        .unwrap();
    for name in ["/bin/tool", "/lib/one", "/lib/sparse", "/lib/deep/er/large"] {
        let inode = file_system.find(name).unwrap().unwrap();
        let about = debugfs(&made.image(), &format!("stat {name}"));
        assert!(about.contains(&format!("Inode: {inode} ")), "{about}");
        let ranges = file_system.ranges(inode).unwrap();
        let found: BTreeSet<_> = ranges
            .into_iter()
            .flat_map(|range| range.start / block_bytes..range.end / block_bytes)
            .collect();
        let blocks = debugfs(&made.image(), &format!("blocks {name}"));
        let blocks = blocks.split_whitespace();
        let all: BTreeSet<u64> = blocks.map(|block| block.parse().unwrap()).collect();
        // Those besides are blocks of the map itself.
        let maps = all.difference(&found).count();
        assert!(found.is_subset(&all), "{shape:?}: {name}");
        assert!(maps * 100 <= all.len() + 1000, "{shape:?}: {name}: {maps}");
    }
}

/// Symbolic links are followed, but not for ever.
fn check_links(shape: &[&str], disk: &dyn ReadAt) {
    let file_system = Ext4::open(disk).unwrap();
    let find = |name: &str| file_system.find(name).unwrap();
    assert_eq!(find("sbin/tool"), find("bin/tool"), "{shape:?}");
    assert_eq!(find("sbin/relative"), find("lib/deep/block"), "{shape:?}");
    assert_eq!(find("lib/deep/absolute"), find("lib/one"), "{shape:?}");
    assert_eq!(find("long-link"), find("lib/one"), "{shape:?}");
    assert!(find("long-link").is_some());
    for name in ["loop-a", "loop-a/x", "dangling"] {
        assert_eq!(find(name), None, "{shape:?}: {name}");
    }
}

/// A tree is walked to its ends.
fn check_trees(shape: &[&str], disk: &dyn ReadAt) {
    let file_system = Ext4::open(disk).unwrap();
    let files = |name: &str| {
        let inode = file_system.find(name).unwrap().unwrap();
        file_system.files_below(inode).unwrap()
    };
    let inode = |name: &str| file_system.find(name).unwrap().unwrap();
    let mut below = files("lib");
    below.sort_unstable();
    let mut expected = [
        "lib/one",
        "lib/deep/block",
        "lib/deep/er/large",
        "lib/sparse",
    ]
    .map(inode);
    expected.sort_unstable();
    assert_eq!(below, expected, "{shape:?}");
    assert_eq!(files("many").len(), 1500, "{shape:?}");
    assert_eq!(files("/").len(), 1506, "{shape:?}");
    assert_eq!(files("empty"), [] as [u32; 0]);
    assert_eq!(files("bin/tool"), [inode("bin/tool")]);
}

#[test]
fn other_file_systems_are_told_by_name() {
    let disk = |bytes: Vec<u8>| MemoryFile::new("disk", bytes);
    let words = |bytes: Vec<u8>| Ext4::open(&disk(bytes)).unwrap_err().to_string();
    assert!(words(vec![0; 100]).contains("too small"));
    assert!(words(vec![0; 1 << 20]).contains("no ext4"));
    let mut erofs = vec![0; 1 << 20];
    erofs[1024..1028].copy_from_slice(&0xE0F5_E1E2_u32.to_le_bytes());
    assert!(words(erofs).contains("erofs"));
}

/// A small file system with a bit of everything.
fn small(shape: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (root, image) = (dir.path().join("root"), dir.path().join("image"));
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    std::fs::write(root.join("a/b/file"), pattern(1, 50_000)).unwrap();
    std::fs::write(root.join("a/other"), pattern(2, 10)).unwrap();
    std::os::unix::fs::symlink("a/b", root.join("link")).unwrap();
    std::os::unix::fs::symlink(format!("{}a/b", "./".repeat(40)), root.join("long")).unwrap();
    make_file_system(&root, &image, "1M", shape);
    std::fs::read(image).unwrap()
}

/// Does all that can be done; nothing of it may panic or go on for ever.
fn use_all(bytes: Vec<u8>) -> usize {
    let disk = MemoryFile::new("disk", bytes);
    let size = disk.size();
    let Ok(file_system) = Ext4::open(&disk) else {
        return 0;
    };
    let mut found = 0;
    for path in ["a/b/file", "link/file", "long/file", "/", "a/../a/other"] {
        let Ok(Some(inode)) = file_system.find(path) else {
            continue;
        };
        let Ok(files) = file_system.files_below(inode) else {
            continue;
        };
        for file in files {
            if let Ok(ranges) = file_system.ranges(file) {
                assert!(ranges.iter().all(|range| range.end <= size));
                found += 1;
            }
        }
    }
    found
}

#[test]
fn a_damaged_file_system_is_never_more_than_an_error() {
    let mut found = BTreeMap::new();
    for shape in [SHAPES[2], SHAPES[5]] {
        let bytes = small(shape);
        assert_eq!(use_all(bytes.clone()), 6, "undamaged");
        // Where metadata is: all that differs from zero, but for the data of the large file.
        let places: Vec<_> = (1024..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let mut random = fastrand::Rng::with_seed(7);
        for _ in 0..3000 {
            let mut damaged = bytes.clone();
            for _ in 0..random.usize(1..20) {
                // Mostly near what is in use.
                let at = places[random.usize(..places.len())] + random.usize(..4);
                if let Some(byte) = damaged.get_mut(at) {
                    *byte = [0, 1, 2, 0x7F, 0xFF, random.u8(..)][random.usize(..6)];
                }
            }
            *found.entry(use_all(damaged)).or_insert(0) += 1;
        }
    }
    assert!(found.len() > 3, "the damage shows: {found:?}");
}

#[test]
fn directories_in_a_circle_are_walked_once() {
    let mut bytes = small(SHAPES[2]);
    let inode = |bytes: &[u8], path: &str| {
        let disk = MemoryFile::new("disk", bytes.to_vec());
        Ext4::open(&disk).unwrap().find(path).unwrap().unwrap()
    };
    let (a, file) = (inode(&bytes, "a"), inode(&bytes, "a/b/file"));
    // The entry of the file now leads back up.
    let name = b"\x04\x01file";
    let at = bytes.windows(name.len()).position(|window| window == name);
    let at = at.unwrap() - 6;
    assert_eq!(bytes[at..at + 4], file.to_le_bytes());
    bytes[at..at + 4].copy_from_slice(&a.to_le_bytes());
    let disk = MemoryFile::new("disk", bytes);
    let file_system = Ext4::open(&disk).unwrap();
    let again = file_system.find("a/b/file/b/file/other").unwrap();
    assert!(again.is_some());
    assert_eq!(file_system.files_below(a).unwrap(), [again.unwrap()]);
}
