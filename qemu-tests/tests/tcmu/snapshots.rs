//! Live snapshots of a disk of the host while a program writes to it, taken with curl as other tools would. The
//! program writes a sequence, so that each snapshot tells which point in time it is.
//!
//! `OBD_SNAPSHOTS` says how many are taken; else as many as fit into [`SECONDS`].

use anyhow::{Context, Result, ensure};
use qemu_tests::host_vm::{HostVm, PROGRAMS, SCRATCH};
use qemu_tests::lab::Lab;
use serde_json::json;

/// For the snapshots, without boot and comparison.
const SECONDS: u32 = 30;

/// Writes numbered blocks with O_DIRECT, round and round; `acked` has the last number that was answered.
const WRITER: &str = r#"
import mmap, os, struct, sys
disk, acked = sys.argv[1:]
fd = os.open(disk, os.O_RDWR | os.O_DIRECT)
ack = os.open(acked, os.O_RDWR | os.O_CREAT)
block = mmap.mmap(-1, 4096)
number = 0
while not os.path.exists(acked + ".stop"):
    number += 1
    block[:] = struct.pack("<Q", number) * 512
    assert os.pwrite(fd, block, number % 251 * 4096) == 4096
    if number % 50 == 0:
        os.fdatasync(fd)
    os.pwrite(ack, b"%020d" % number, 0)
"#;

/// Reads a raw disk: all blocks up to a number between the two that are given, and none behind.
const CHECK: &str = r#"
import struct, sys
least, most = int(sys.argv[2]), int(sys.argv[3])
blocks = []
with open(sys.argv[1], "rb") as disk:
    for slot in range(251):
        words = set(struct.unpack("<512Q", disk.read(4096)))
        assert len(words) == 1, "slot %d is torn" % slot
        blocks.append(words.pop())
last = max(blocks)
assert least <= last <= most, "%d is not in %d..%d" % (last, least, most)
for slot in range(251):
    wanted = max(0, last - (last - slot) % 251)
    assert blocks[slot] == wanted, "after %d slot %d has %d, not %d" % (last, slot, blocks[slot], wanted)
print(last)
"#;

/// Takes snapshots: for each a new upper and a new config, which has the old data file as its last lower. Around every
/// tenth the daemon is killed and started again. `taken` gets a line for each: number, acknowledged before and after.
const TAKE: &str = r#"
import json, os, subprocess, sys, time
scratch, programs, count, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
config = scratch + "/config.v1.json"

def acked():
    with open(scratch + "/acked") as file:
        return int(file.read() or 0)

def start():
    return subprocess.Popen([programs + "/overlaybd-tcmu", scratch + "/overlaybd.json"], stdout=log, stderr=log)

def post(new):
    url = "http://127.0.0.1:9862/snapshot?dev_id=one&config=" + new
    run = subprocess.run(["curl", "-s", "--retry", "60", "--retry-connrefused", "--retry-delay", "1", "-X", "POST", url],
                         stdout=subprocess.PIPE)
    return run.stdout.decode()

log = open("/dev/ttyS0", "wb")
taken = open(scratch + "/taken", "w")
daemon = None
begin = time.time()
number = 0
while number < count if count else time.time() - begin < seconds:
    number += 1
    with open(config) as file:
        old = json.load(file)
    data, index = ["%s/%d.%s" % (scratch, number, kind) for kind in ("data", "index")]
    sparse = ["-s"] if number % 3 == 0 else []
    subprocess.check_call([programs + "/overlaybd-create"] + sparse + [data, index, "1"], stdout=subprocess.DEVNULL)
    lowers = old["lowers"] + [{"file": old["upper"]["data"]}]
    new = scratch + "/new.json"
    with open(new, "w") as file:
        json.dump(dict(old, lowers=lowers, upper={"data": data, "index": index}), file)
    before = acked()
    # A daemon that has just started may not have taken the disk up yet.
    for attempt in range(100):
        kill = number % 10 == 5 and attempt == 0
        if kill:
            asked = subprocess.Popen(["curl", "-s", "-X", "POST", "http://127.0.0.1:9862/snapshot?dev_id=one&config=" + new],
                                     stdout=subprocess.DEVNULL)
            time.sleep(number % 7 * 0.02)
            with open("/run/overlaybd-tcmu.pid") as file:
                os.kill(int(file.read()), 9)
            asked.wait()
            if daemon:
                daemon.wait()
            daemon = start()
            with open("/run/overlaybd-tcmu.pid", "w") as file:
                file.write(str(daemon.pid))
            answer = ""
        else:
            answer = post(new)
        # A kill may come after the moment of no return: then the daemon has finished it.
        with open(config) as file:
            is_done = json.load(file)["upper"]["data"] == data
        if '"success": true' in answer or is_done:
            break
        time.sleep(0.1)
    assert is_done, "snapshot %d: %s" % (number, answer)
    after = acked()
    with open(scratch + "/snapshot%d.json" % number, "w") as file:
        json.dump({"lowers": lowers}, file)
    print(number, before, after, file=taken, flush=True)
    # The writer goes on between two snapshots.
    goal = after + 20
    for attempt in range(600):
        if acked() >= goal:
            break
        time.sleep(0.05)
    assert acked() >= goal, "the writer hangs after snapshot %d" % number
"#;

#[test]
fn snapshots_under_load_are_points_in_time_also_when_the_daemon_is_killed() -> Result<()> {
    Lab::run(|lab| {
        let mut host = lab.container_host("snapshots").boot()?;
        prepare(&mut host)?;
        let count = std::env::var("OBD_SNAPSHOTS").unwrap_or_else(|_| "0".to_owned());
        host.run_within(
            900,
            &format!("python3 {SCRATCH}/take {SCRATCH} {PROGRAMS} {count} {SECONDS} 2>&1"),
        )?;
        // The writer has not met an error.
        host.run(&format!(
            "touch {SCRATCH}/acked.stop
             for try in $(seq 600); do [ -e {SCRATCH}/writer.status ] && break; sleep 0.1; done
             cat {SCRATCH}/writer.log; [ \"$(cat {SCRATCH}/writer.status)\" = 0 ]"
        ))?;
        let checked = check(&mut host)?;
        ensure!(checked > 0, "no snapshot was taken");
        println!("{checked} snapshots");
        host.shut_down()
    })
}

fn prepare(host: &mut HostVm<'_>) -> Result<()> {
    let config = json!({
        "repoBlobUrl": "", "resultFile": format!("{SCRATCH}/result"),
        "lowers": [{ "file": format!("{SCRATCH}/base.data") }],
        "upper": { "data": format!("{SCRATCH}/0.data"), "index": format!("{SCRATCH}/0.index") },
    });
    host.run(&format!(
        "cd {SCRATCH}
         cat >writer <<'END'\n{WRITER}\nEND
         cat >check <<'END'\n{CHECK}\nEND
         cat >take <<'END'\n{TAKE}\nEND
         set -e
         {PROGRAMS}/overlaybd-create base.data base.index 1
         {PROGRAMS}/overlaybd-commit --seal base.data base.index
         {PROGRAMS}/overlaybd-create 0.data 0.index 1
         echo '{config}' >config.v1.json"
    ))
    .context("make the disk")?;
    host.configure_overlaybd_tcmu(json!({ "serviceConfig": { "enable": true } }))?;
    host.start_overlaybd_tcmu()?;
    host.run(&format!(
        "disk=$({PROGRAMS}/obd attach --dev-id one {SCRATCH}/config.v1.json) || exit
         cd {SCRATCH}
         (python3 writer $disk {SCRATCH}/acked >writer.log 2>&1; echo $? >writer.status) </dev/null &
         for try in $(seq 300); do [ -s acked ] && exit 0; sleep 0.1; done
         cat writer.log; exit 1"
    ))
    .context("start the writer")?;
    Ok(())
}

/// Exports every snapshot and looks at its sequence; returns their number.
fn check(host: &mut HostVm<'_>) -> Result<usize> {
    let checked = host.run_within(
        900,
        &format!(
            "cd {SCRATCH}
             while read -r number before after; do
                 {PROGRAMS}/obd export snapshot$number.json raw >/dev/null 2>export.log || {{ cat export.log; exit 1; }}
                 # One write may have been under way.
                 python3 check raw $before $((after + 1)) 2>&1 || {{ echo snapshot $number; exit 1; }}
                 rm raw
             done <taken
             disk=$({PROGRAMS}/obd ls | grep -o '/dev/sd[a-z]*')
             python3 check $disk $(cat acked) $(cat acked) 2>&1"
        ),
    )?;
    Ok(checked.lines().count().saturating_sub(1))
}
