//! A read that finds its bytes in memory allocates nothing.
#![cfg(test)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Cursor, Write};

use layers::io::MemoryFile;
use layers::zfile::{Algorithm, BuildOptions, ZFile, ZFileBuilder};
use layers::{Dest, Progress, ReadAt, Wait};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn reads_after_the_first_allocate_nothing() {
    let input = b"what is written here compresses well. ".repeat(40_000);
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let options = BuildOptions {
            algorithm,
            ..BuildOptions::default()
        };
        let mut builder = ZFileBuilder::new(Cursor::new(Vec::new()), options).unwrap();
        builder.write_all(&input).unwrap();
        let file = builder.finish().unwrap().sink.into_inner();
        let zfile = ZFile::open(Box::new(MemoryFile::new("memory", file))).unwrap();
        let mut buf = vec![0; 300_000];
        zfile.read_exact_at(0, &mut buf).unwrap();

        let before = ALLOCATIONS.with(Cell::get);
        for step in 0..100_usize {
            let start = step * 9_001;
            let dest = Dest::from(&mut buf[..1 + step * 2_999]);
            let progress = zfile.read_at(start as u64, dest, Wait::Never).unwrap();
            assert_eq!(progress, Progress::Done);
        }
        let after = ALLOCATIONS.with(Cell::get);
        assert_eq!(after - before, 0, "{}", algorithm.name());
    }
}
