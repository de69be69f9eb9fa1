//! Disks that are written: what the daemon offers, keeps, and refuses.

use std::process::Command;

use layers::lsmt::upper::UpperKind;

use crate::frontend::{
    CONFIG_WCE, FEATURES, FLUSH, T_DISCARD, T_FLUSH, T_OUT, T_WRITE_ZEROES, Vmm,
};
use crate::process::{Daemon, command, native_image, open_read_only, writable_image};

const KINDS: [UpperKind; 2] = [UpperKind::AppendOnly, UpperKind::Sparse];
const OK: u8 = 0;
const IOERR: u8 = 1;

struct Served {
    dir: tempfile::TempDir,
    config: std::path::PathBuf,
    socket: std::path::PathBuf,
    daemon: Daemon,
}

/// A daemon with a disk that is written: 64 MiB, or over the native layers.
fn serve(kind: UpperKind, over_layers: bool) -> Served {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let alone = (!over_layers).then_some(64 << 20);
    let config = writable_image(dir.path(), kind, alone);
    let socket = dir.path().join("disk.sock");
    let daemon = Daemon::serve(&config, &socket);
    Served {
        dir,
        config,
        socket,
        daemon,
    }
}

/// A connected VMM whose ring runs.
fn vmm(socket: &std::path::Path, more_features: u64) -> Vmm {
    let mut vmm = Vmm::connect(socket);
    vmm.negotiate_also(more_features);
    vmm.share_memory();
    vmm.start_ring(0);
    vmm
}

fn end(daemon: &mut Daemon) {
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn exactly_the_features_of_a_writable_disk_are_offered() {
    let served = serve(UpperKind::AppendOnly, true);
    let mut vmm = Vmm::connect(&served.socket);
    let bits = [
        2,  // SEG_MAX
        6,  // BLK_SIZE
        9,  // FLUSH
        10, // TOPOLOGY
        11, // CONFIG_WCE
        12, // MQ
        13, // DISCARD
        14, // WRITE_ZEROES
        28, // INDIRECT_DESC
        29, // EVENT_IDX
        30, // PROTOCOL_FEATURES
        32, // VERSION_1
    ];
    let expected = bits.iter().fold(0_u64, |features, bit| features | 1 << bit);
    use vhost::VhostBackend;
    assert_eq!(vmm.frontend.get_features().unwrap(), expected);
    vmm.negotiate();
    assert_eq!(vmm.config(0, 8), (1_u64 << 21).to_le_bytes());
    assert_eq!(vmm.config(32, 1), [1], "writeback");
    assert_eq!(vmm.config(36, 4), (1_u32 << 21).to_le_bytes());
    assert_eq!(vmm.config(56, 1), [1], "write_zeroes_may_unmap");
}

#[test]
fn what_was_written_is_there_after_the_end_of_the_daemon() {
    for kind in KINDS {
        let mut served = serve(kind, true);
        let mut vmm = vmm(&served.socket, FLUSH);
        let before = vmm.read(0, 8192);
        assert_eq!(vmm.request(T_OUT, 3, &[0xa5; 1536]), OK);
        let mut expected = before.clone();
        expected[1536..3072].fill(0xa5);
        assert_eq!(vmm.read(0, 8192), expected);
        // One sector of data of the layers below.
        let range = [&2_u64.to_le_bytes()[..], &1_u32.to_le_bytes(), &[0; 4]].concat();
        assert_eq!(vmm.request(T_DISCARD, 0, &range), OK);
        expected[1024..1536].fill(0);
        assert_eq!(vmm.read(0, 8192), expected);
        assert_eq!(vmm.request(T_FLUSH, 0, &[]), OK);
        drop(vmm);
        end(&mut served.daemon);
        let mut bytes = vec![0; 8192];
        let image = open_read_only(&served.config);
        image.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, expected, "{kind:?}");
    }
}

#[test]
fn the_log_says_whether_a_disk_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let config = writable_image(dir.path(), UpperKind::AppendOnly, None);
    for (readonly, access) in [("", "rw"), (",readonly=off", "rw"), (",readonly=on", "ro")] {
        let socket = dir.path().join("disk.sock");
        let disk = format!(
            "config={},socket={}{readonly}",
            config.display(),
            socket.display()
        );
        let mut daemon = Daemon::start(&["--disk", &disk], 0);
        let line = daemon.wait_for_log("serving image=");
        assert!(line.contains(&format!(" access={access} ")), "{line}");
        end(&mut daemon);
    }
    let (config, _image) = native_image(dir.path());
    let daemon = Daemon::start(
        &[
            "--config".as_ref(),
            config.as_os_str(),
            "--socket".as_ref(),
            dir.path().join("ro.sock").as_os_str(),
        ],
        0,
    );
    let line = daemon.wait_for_log("serving image=");
    assert!(line.contains(" access=ro "), "{line}");
}

#[test]
fn a_writable_image_that_is_served_read_only_refuses_writes() {
    let dir = tempfile::tempdir().unwrap();
    let config = writable_image(dir.path(), UpperKind::AppendOnly, None);
    let socket = dir.path().join("disk.sock");
    let disk = format!(
        "config={},socket={},readonly=on",
        config.display(),
        socket.display()
    );
    let daemon = Daemon::start(&["--disk", &disk], 1);
    let mut vmm = vmm(&socket, 1 << 5);
    let before = vmm.read(0, 4096);
    for kind in [T_OUT, T_DISCARD, T_WRITE_ZEROES] {
        assert_eq!(vmm.request(kind, 0, &[0; 512]), IOERR);
    }
    assert_eq!(vmm.request(T_FLUSH, 0, &[]), OK);
    assert_eq!(vmm.read(0, 4096), before);
    daemon.wait_for_log("the disk is read-only");
}

#[test]
fn readonly_off_without_a_writable_layer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _image) = native_image(dir.path());
    let socket = dir.path().join("disk.sock");
    let disk = format!(
        "config={},socket={},readonly=off",
        config.display(),
        socket.display()
    );
    let output = command(&["--disk", &disk]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("config.v1.json") && message.contains("no writable layer"),
        "{message}"
    );
    assert!(!socket.exists());
}

#[test]
fn a_second_daemon_on_the_same_writable_image_is_refused() {
    let served = serve(UpperKind::AppendOnly, true);
    let socket = served.dir.path().join("other.sock");
    let args = [
        "--config".as_ref(),
        served.config.as_os_str(),
        "--socket".as_ref(),
        socket.as_os_str(),
    ];
    let output = command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("another process"), "{message}");
}

#[test]
fn a_driver_may_switch_the_cache_off_and_on() {
    let served = serve(UpperKind::AppendOnly, false);
    let mut vmm = vmm(&served.socket, FLUSH | CONFIG_WCE);
    for writeback in [0, 1, 0] {
        vmm.set_config(32, &[writeback]);
        assert_eq!(vmm.config(32, 1), [writeback]);
        assert_eq!(vmm.config(0x100 + 32, 1), [writeback]);
        assert_eq!(vmm.request(T_OUT, 0, &[writeback; 512]), OK);
        assert_eq!(vmm.read(0, 512), [writeback; 512]);
    }
    // qemu negotiates again after a pause, and shows its guest the byte from memory.
    use vhost::VhostBackend;
    let features = FEATURES | FLUSH | CONFIG_WCE;
    vmm.frontend.set_features(features).unwrap();
    assert_eq!(vmm.config(32, 1), [0]);
    vmm.frontend.set_features(FEATURES | CONFIG_WCE).unwrap();
    assert_eq!(vmm.config(32, 1), [0]);
    drop(vmm);
    let mut vmm = Vmm::connect(&served.socket);
    vmm.negotiate_also(FLUSH | CONFIG_WCE);
    assert_eq!(vmm.config(32, 1), [0], "also for the next VMM");
    vmm.set_config(32, &[1]);
    assert_eq!(vmm.config(32, 1), [1]);
    vmm.frontend.set_features(FEATURES | CONFIG_WCE).unwrap();
    assert_eq!(vmm.config(32, 1), [0], "a driver that cannot flush");
}

#[test]
fn a_vm_whose_driver_has_switched_the_cache_off_is_believed_by_the_next_daemon() {
    let mut served = serve(UpperKind::AppendOnly, false);
    let features = FLUSH | CONFIG_WCE;
    let mut vmm = vmm(&served.socket, features);
    let log = served.dir.path().join("index");
    let log_bytes = || std::fs::metadata(&log).unwrap().len();
    // A flush leaves a mark in the log.
    let added_by_write = |vmm: &mut Vmm| {
        let before = log_bytes();
        assert_eq!(vmm.request(T_OUT, 0, &[1; 512]), OK);
        log_bytes() - before
    };
    // The first write of a layer leaves a mark, too.
    added_by_write(&mut vmm);
    let written = added_by_write(&mut vmm);
    vmm.set_config(32, &[0]);
    let flushed = added_by_write(&mut vmm);
    assert!(flushed > written);
    let mut next_daemon = |vmm: &mut Vmm, how: &str| {
        served.daemon.signal(how);
        served.daemon.wait();
        served.daemon = Daemon::serve(&served.config, &served.socket);
        // All that a VMM does: it shows its guest the byte from memory.
        vmm.reconnect(&served.socket, features);
        vmm.resume_ring(vmm.used_idx());
    };
    for how in ["KILL", "TERM"] {
        next_daemon(&mut vmm, how);
        assert_eq!(added_by_write(&mut vmm), flushed, "{how}");
    }
    vmm.set_config(32, &[1]);
    next_daemon(&mut vmm, "KILL");
    assert_eq!(added_by_write(&mut vmm), written);
}

#[test]
fn no_other_byte_of_the_configuration_can_be_written() {
    let served = serve(UpperKind::AppendOnly, false);
    let mut vmm = vmm(&served.socket, FLUSH | CONFIG_WCE);
    let before = vmm.config(0, 60);
    for (offset, bytes) in [(0, &[0xff; 60][..]), (31, &[0]), (33, &[9]), (32, &[0, 0])] {
        vmm.set_config(offset, bytes);
        assert_eq!(vmm.config(0, 60), before);
    }
    assert_eq!(vmm.request(T_OUT, 0, &[1; 512]), OK, "the session goes on");
}

#[test]
fn a_driver_that_cannot_flush_has_its_writes_flushed() {
    let served = serve(UpperKind::AppendOnly, false);
    let mut vmm = vmm(&served.socket, 0);
    let log = served.dir.path().join("index");
    let flushes = || {
        // Each flush leaves a mark in the log, on top of the entry and its check.
        std::fs::metadata(&log).unwrap().len()
    };
    assert_eq!(vmm.request(T_OUT, 0, &[1; 512]), OK);
    let after_first = flushes();
    assert_eq!(vmm.request(T_OUT, 0, &[2; 512]), OK);
    let with_flush = flushes() - after_first;
    drop(vmm);
    let mut vmm = self::vmm(&served.socket, FLUSH);
    let before = flushes();
    assert_eq!(vmm.request(T_OUT, 0, &[3; 512]), OK);
    assert!(flushes() - before < with_flush);
}

#[test]
fn the_end_of_the_daemon_flushes() {
    let mut served = serve(UpperKind::AppendOnly, false);
    let mut vmm = vmm(&served.socket, FLUSH);
    assert_eq!(vmm.request(T_OUT, 0, &[1; 512]), OK);
    let log = served.dir.path().join("index");
    let bytes_before = std::fs::metadata(&log).unwrap().len();
    end(&mut served.daemon);
    // A flush leaves a mark in the log.
    assert!(std::fs::metadata(&log).unwrap().len() > bytes_before);
}

fn limit_file_size(daemon: &Daemon, soft: &str) {
    let status = Command::new("prlimit")
        .args(["--pid", &daemon.pid().to_string()])
        .arg(format!("--fsize={soft}:"))
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn a_write_that_the_host_refuses_is_an_error_and_the_disk_goes_on() {
    for kind in KINDS {
        let mut served = serve(kind, false);
        let mut vmm = vmm(&served.socket, FLUSH);
        assert_eq!(vmm.request(T_OUT, 0, &[1; 8192]), OK);
        // The size of the sparse file is that of the disk; this limits where in it.
        limit_file_size(&served.daemon, "65536");
        let mut written = 1;
        let far = 32 << 10;
        let mut status = vmm.request(T_OUT, 16, &[2; 8192]);
        while status == OK {
            written += 1;
            let sector = if kind == UpperKind::Sparse {
                far
            } else {
                written * 16
            };
            status = vmm.request(T_OUT, sector, &[2; 8192]);
        }
        assert_eq!(status, IOERR);
        served.daemon.wait_for_log("write failed");
        assert_eq!(vmm.read(0, 8192), [1; 8192]);
        assert_eq!(vmm.read(16, 8192), [2; 8192]);
        assert_eq!(vmm.read(far, 8192), [0; 8192]);
        limit_file_size(&served.daemon, "unlimited");
        assert_eq!(vmm.request(T_OUT, far, &[3; 8192]), OK);
        assert_eq!(vmm.request(T_FLUSH, 0, &[]), OK);
        drop(vmm);
        end(&mut served.daemon);
        let image = open_read_only(&served.config);
        for (sector, byte) in [(0, 1), (16, 2), (far, 3)] {
            let mut bytes = vec![0; 8192];
            image.read_exact_at(sector * 512, &mut bytes).unwrap();
            assert_eq!(bytes, [byte; 8192], "{kind:?}");
        }
    }
}
