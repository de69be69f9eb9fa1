//! Shell functions that run in the container host: images, the daemon, its log.

use anyhow::{Context, Result};
use qemu_tests::host_vm::{HostVm, PROGRAMS, SCRATCH};

/// The functions; the daemon's log is on the console and, for tests to look into, in a file.
const FUNCTIONS: &str = r#"
log=/run/overlaybd-tcmu.log core=/sys/kernel/config/target/core
export PATH=$bin:$PATH
fail() { echo "$@"; tail -n 30 $log; exit 1; }
# within SECONDS COMMAND...: until it succeeds
within() {
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || fail "in vain: $*"; sleep 0.1; done
}
# writable NAME [-s]: an empty disk of 1 GiB
writable() {
    overlaybd-create $2 $scratch/$1.data $scratch/$1.index 1 >/dev/null || fail "create $1"
    echo "{\"repoBlobUrl\": \"\", \"lowers\": [], \"resultFile\": \"$scratch/$1.result\",
        \"upper\": {\"data\": \"$scratch/$1.data\", \"index\": \"$scratch/$1.index\"}}" >$scratch/$1.json
}
# read_only NAME LAYER
read_only() {
    echo "{\"repoBlobUrl\": \"\", \"lowers\": [{\"file\": \"$2\"}], \"resultFile\": \"$scratch/$1.result\"}" >$scratch/$1.json
}
starts() { touch $log; grep -c ' ready; ' $log; }
started_since() { [ "$(starts)" -gt "$1" ]; }
start_daemon() {
    local before=$(starts)
    overlaybd-tcmu $scratch/overlaybd.json > >(tee -a $log >/dev/ttyS0 2>&1) 2>&1 &
    echo $! >/run/overlaybd-tcmu.pid
    within 60 started_since $before
}
pid() { cat /run/overlaybd-tcmu.pid; }
gone() { ! kill -0 $1 2>/dev/null; }
kill_daemon() { local pid=$(pid); kill -9 $pid && within 20 gone $pid; }
# Whether commands to a disk are under way, or wait.
in_flight() { local reads writes; read -r reads writes </sys/block/${1#/dev/}/inflight; [ $((reads + writes)) -gt 0 ]; }
no_devices() { [ -z "$(ls /sys/class/uio)" ]; }
# A checked load of one disk until /run/stop is there; its verdict is in /run/load.NAME
load() {
    (
        while [ ! -e /run/stop ]; do
            fio --name=$1 --filename=$2 --rw=randwrite --bsrange=4k-64k --size=6m --ioengine=libaio --iodepth=8 --direct=1 \
                --verify=crc32c --verify_fatal=1 --verify_backlog=64 --group_reporting >/run/fio.$1 2>&1 ||
                { cat /run/fio.$1 >/run/load.$1; exit; }
            echo >>/run/rounds.$1
        done
        echo good >/run/load.$1
    ) &
}
rounds() { cat /run/rounds.$1 2>/dev/null | wc -l; }
has_rounds() { [ $(rounds $1) -gt $2 ]; }
# Until each of these loads has ended a further round.
further() {
    local name; local -A before
    for name in "$@"; do before[$name]=$(rounds $name); done
    for name in "$@"; do within 60 has_rounds $name ${before[$name]}; done
}
loads_ended() { local name; for name in "$@"; do [ -s /run/load.$name ] || return 1; done; }
end_loads() {
    local name
    touch /run/stop
    within 60 loads_ended "$@"
    for name in "$@"; do
        [ "$(cat /run/load.$name)" = good ] || fail "load of $name: $(cat /run/load.$name)"
    done
    rm /run/stop
}
"#;

/// Runs `text` with the functions; returns what it printed.
pub(crate) fn script(host: &mut HostVm<'_>, seconds: u64, text: &str) -> Result<String> {
    let name = text.lines().map(str::trim).find(|line| !line.is_empty());
    let command = format!("bin={PROGRAMS} scratch={SCRATCH}\n{FUNCTIONS}\n{text}");
    host.run_within(seconds, &command)
        .with_context(|| format!("script that begins with {name:?}"))
}

/// A number of the environment.
pub(crate) fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Shows the figures of a test that are for people.
pub(crate) fn tell(figures: &str) {
    eprintln!("{figures}");
}
