//! Checks every block of a zfile.
//!
//! image -> lsmt -> **zfile** -> tar -> io
//!
//! Source: format reference 2.5.

use super::reader::{Run, ZFile};
use super::scratch::{self, Scratch};
use crate::dest::Dest;
use crate::error::Result;
use crate::read_at::Wait;

/// Most faults of one file that are told apart; the rest is counted.
const FAULTS_MAX: usize = 100;

/// What is wrong with one block.
#[derive(Debug)]
pub struct BlockFault {
    /// Number of the block, from 0.
    pub block: usize,
    /// Where it is stored and what was found there.
    pub error: crate::Error,
}

/// The outcome of [`ZFile::verify_all`].
#[derive(Debug, Default)]
pub struct VerifyReport {
    /// The first 100 damaged blocks, in order.
    pub faults: Vec<BlockFault>,
    /// Number of damaged blocks.
    pub fault_count: usize,
}

impl VerifyReport {
    /// Is every block sound?
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.fault_count == 0
    }

    fn add(&mut self, block: usize, error: crate::Error) {
        self.fault_count += 1;
        if self.faults.len() < FAULTS_MAX {
            self.faults.push(BlockFault { block, error });
        }
    }
}

impl ZFile {
    /// Reads, checks and decodes every block; `progress` is told the number of blocks done, from
    /// time to time and at the end. Blocks.
    ///
    /// # Errors
    /// Those of the source. A damaged block is no error but part of the report.
    pub fn verify_all(&self, mut progress: impl FnMut(usize)) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let blocks = self.block_count();
        let mut block = 0;
        while block < blocks {
            let run = self.run(block, blocks - 1)?;
            scratch::with(|scratch| self.verify_run(&run, scratch, &mut report))?;
            block = run.end;
            progress(block);
        }
        Ok(report)
    }

    fn verify_run(
        &self,
        run: &Run,
        scratch: &mut Scratch,
        report: &mut VerifyReport,
    ) -> Result<()> {
        let fetched = self.fetch(run, &mut scratch.stored, Wait::UntilDone)?;
        for block in run.first..run.end {
            let stored = self.stored_block(run, fetched.unwrap_or_default(), block)?;
            let len = self.block_len(block);
            let whole = Dest::from(scratch.block.as_mut_slice()).take_front(len);
            let sound = self.check(block, stored).and_then(|compressed| {
                let decoded = scratch.decoder.decode(self.algorithm(), compressed, whole);
                self.check_decoded(block, decoded, len)
            });
            if let Err(error) = sound {
                report.add(block, error);
            }
        }
        Ok(())
    }
}
