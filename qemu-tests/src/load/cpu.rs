//! Where threads run, and how much processor time they take.
//!
//! measure -> **cpu** -> sched_setaffinity(2), proc(5)

use std::io;

use anyhow::{Context, Result, ensure};

/// A process to look up in `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// The caller.
    Own,
    /// Any process of this host.
    Id(u32),
}

/// Keeps the calling thread on one processor from now on.
///
/// # Errors
/// There is no such processor, or it is not allowed to this process.
pub fn pin_thread(cpu: usize) -> Result<()> {
    ensure!(
        cpu < usize::try_from(libc::CPU_SETSIZE)?,
        "there is no CPU {cpu}"
    );
    // SAFETY: every bit pattern is a valid cpu_set_t; all zero is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is a whole cpu_set_t and outlives the call; 0 names the calling thread.
    let done = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    ensure!(
        done == 0,
        "pin to CPU {cpu}: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

/// Seconds of processor time that all threads of a process have used so far, user and system.
///
/// # Errors
/// There is no such process.
pub fn seconds_used(process: Process) -> Result<f64> {
    let path = match process {
        Process::Own => "/proc/self/stat".to_owned(),
        Process::Id(id) => format!("/proc/{id}/stat"),
    };
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let ticks = ticks_used(&stat).with_context(|| format!("understand {path}"))?;
    Ok(f64::from(ticks) / ticks_per_second()?)
}

/// Processor time of the whole host since it started, seconds, all processors together.
#[derive(Debug, Clone, Copy)]
pub struct HostTime {
    /// Spent on anything but idling.
    pub busy: f64,
    /// Kept from this host by its hypervisor while it wanted to run.
    pub stolen: f64,
}

/// Reads the host's accounts.
///
/// # Errors
/// `/proc/stat` is not what proc(5) says.
pub fn host_time() -> Result<HostTime> {
    let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let (busy, stolen) = host_ticks(&stat).context("understand /proc/stat")?;
    let tick = ticks_per_second()?.recip();
    Ok(HostTime {
        busy: f64::from(busy) * tick,
        stolen: f64::from(stolen) * tick,
    })
}

fn ticks_per_second() -> Result<f64> {
    // SAFETY: sysconf has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    ensure!(ticks > 0, "the length of a tick is unknown");
    Ok(f64::from(u32::try_from(ticks)?))
}

/// Fields 14 and 15, utime and stime. The second field, a name in parentheses, may hold anything.
fn ticks_used(stat: &str) -> Option<u32> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

/// Busy and stolen ticks of the line `cpu user nice system idle iowait irq softirq steal ..`.
fn host_ticks(stat: &str) -> Option<(u32, u32)> {
    let mut fields = stat.lines().next()?.split_ascii_whitespace();
    if fields.next()? != "cpu" {
        return None;
    }
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    let (user, nice, system) = (ticks()?, ticks()?, ticks()?);
    let (_idle, _iowait) = (ticks()?, ticks()?);
    let (irq, softirq, stolen) = (ticks()?, ticks()?, ticks()?);
    let parts = [user, nice, system, irq, softirq];
    let busy = parts.iter().try_fold(0_u32, |sum, t| sum.checked_add(*t));
    Some((busy?, stolen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found_behind_a_name_with_blanks_and_parentheses() {
        let stat = "7 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20";
        assert_eq!(ticks_used(stat), Some(400));
        assert_eq!(ticks_used("7 no name"), None);
    }

    #[test]
    fn idle_and_waiting_time_is_not_busy() {
        let stat = "cpu  10 20 30 1000 2000 40 50 7 0 0\ncpu0 1 2 3";
        assert_eq!(host_ticks(stat), Some((150, 7)));
        assert_eq!(host_ticks("cpu0 1 2 3 4 5 6 7 8"), None);
    }

    #[test]
    fn a_process_that_does_not_exist_is_an_error() {
        assert!(seconds_used(Process::Id(u32::MAX)).is_err());
        assert!(seconds_used(Process::Own).is_ok());
    }
}
