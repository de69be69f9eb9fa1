//! A guest that remembers what it wrote, when it was told so, and when it flushed.

use layers::Image;

/// Sectors of the disk.
pub(crate) const SECTORS: usize = 128;
const SECTOR: usize = 512;

/// What one sector holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Version {
    /// What was below before anything was written.
    Below,
    /// Zeros that step wrote, or a hole.
    Zeros,
    /// The data of a step.
    Step(u32),
}

/// One thing the guest does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Write { first: usize, sectors: usize },
    Zeroes { first: usize, sectors: usize },
    Flush,
}

/// A step and its place among the operations of the files.
#[derive(Debug, Clone, Copy)]
struct Done {
    step: Step,
    number: u32,
    began: usize,
    ended: usize,
    succeeded: bool,
}

/// Everything the guest did.
#[derive(Debug, Default)]
pub(crate) struct History {
    done: Vec<Done>,
}

/// Steps that overlap a lot, with a seed.
pub(crate) fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut random = Random(seed);
    (0..count)
        .map(|_| {
            let sectors = match random.below(4) {
                0 => 1 + random.below(7),
                1 => 8 * (1 + random.below(4)),
                _ => 8,
            };
            let first = match random.below(3) {
                0 => random.below(SECTORS - sectors),
                _ => random.below((SECTORS - sectors) / 8) * 8,
            };
            match random.below(8) {
                0 | 1 => Step::Flush,
                2 => Step::Zeroes { first, sectors },
                _ => Step::Write { first, sectors },
            }
        })
        .collect()
}

/// xorshift: the same steps for the same seed on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }
}

impl History {
    /// Does one step; `now` counts the operations of the files.
    pub(crate) fn step(
        &mut self,
        image: &Image,
        step: Step,
        now: impl Fn() -> usize,
    ) -> layers::Result<()> {
        let number = u32::try_from(self.done.len()).unwrap();
        let began = now();
        let result = match step {
            Step::Flush => image.flush(),
            Step::Zeroes { first, sectors } => {
                image.write_zeroes_at((first * SECTOR) as u64, (sectors * SECTOR) as u64)
            }
            Step::Write { first, sectors } => {
                let data: Vec<u8> = (first..first + sectors)
                    .flat_map(|sector| sector_bytes(number, sector))
                    .collect();
                image.write_at((first * SECTOR) as u64, &data)
            }
        };
        self.done.push(Done {
            step,
            number,
            began,
            ended: now(),
            succeeded: result.is_ok(),
        });
        result
    }

    /// The versions that each sector may have when the first `ops` operations have reached the
    /// kernel and then this process was killed.
    pub(crate) fn allowed_after_kill(&self, ops: usize) -> Vec<Vec<Version>> {
        self.allowed(ops, |done| done.succeeded && done.ended <= ops)
    }

    /// The same for a power cut.
    pub(crate) fn allowed_after_power_cut(&self, ops: usize) -> Vec<Vec<Version>> {
        let last_flush = self.done.iter().rposition(|done| {
            matches!(done.step, Step::Flush) && done.succeeded && done.ended <= ops
        });
        let flushed = last_flush.unwrap_or(0);
        self.allowed(ops, |done| {
            done.succeeded && usize::try_from(done.number).unwrap() < flushed
        })
    }

    /// A step that `is_kept` replaces what was before; one that has only begun may have.
    fn allowed(&self, ops: usize, is_kept: impl Fn(&Done) -> bool) -> Vec<Vec<Version>> {
        let mut allowed = vec![vec![Version::Below]; SECTORS];
        for done in self.done.iter().filter(|done| done.began <= ops) {
            let (first, sectors, version) = match done.step {
                Step::Write { first, sectors } => (first, sectors, Version::Step(done.number)),
                Step::Zeroes { first, sectors } => (first, sectors, Version::Zeros),
                Step::Flush => continue,
            };
            for versions in &mut allowed[first..first + sectors] {
                if is_kept(done) {
                    versions.clear();
                }
                versions.push(version);
            }
        }
        allowed
    }
}

/// What step `number` writes to a sector: no two are alike, and none is zero.
fn sector_bytes(number: u32, sector: usize) -> Vec<u8> {
    let text = format!("step {number} sector {sector} ");
    text.bytes().cycle().take(SECTOR).collect()
}

/// What a sector of the layers below holds; every third one is a hole.
pub(crate) fn below_bytes(sector: usize) -> Vec<u8> {
    match sector / 8 % 3 {
        0 => vec![0; SECTOR],
        _ => format!("below {sector} ")
            .bytes()
            .cycle()
            .take(SECTOR)
            .collect(),
    }
}

/// Panics unless every sector of `image` holds a version that is allowed.
pub(crate) fn assert_allowed(image: &Image, allowed: &[Vec<Version>], what: &str) {
    let mut disk = vec![0; SECTORS * SECTOR];
    image.read_exact_at(0, &mut disk).unwrap();
    for (sector, (bytes, versions)) in disk.chunks(SECTOR).zip(allowed).enumerate() {
        let good = versions.iter().any(|version| match version {
            Version::Below => bytes == below_bytes(sector),
            Version::Zeros => bytes.iter().all(|byte| *byte == 0),
            Version::Step(number) => bytes == sector_bytes(*number, sector),
        });
        let shown = String::from_utf8_lossy(&bytes[..40]);
        assert!(
            good,
            "{what}: sector {sector} holds {shown:?}, allowed {versions:?}"
        );
    }
}
