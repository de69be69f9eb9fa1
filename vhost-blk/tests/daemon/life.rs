//! How the daemon starts and ends, and how VMMs come and go.

use std::os::unix::net::UnixListener;

use crate::frontend::Vmm;
use crate::process::{Daemon, command, native_image};

fn vmm_that_reads(socket: &std::path::Path) -> Vmm {
    let mut vmm = Vmm::connect(socket);
    vmm.negotiate();
    vmm.share_memory();
    vmm.start_ring(0);
    vmm.read(2, 4096);
    vmm
}

#[test]
fn a_vmm_may_come_back_many_times_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _image) = native_image(dir.path());
    let socket = dir.path().join("disk.sock");
    let daemon = Daemon::serve(&config, &socket);
    let open_files = || {
        daemon.wait_for_log("VMM disconnected");
        std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()))
            .unwrap()
            .count()
    };
    drop(vmm_that_reads(&socket));
    let after_first = open_files();
    for _ in 0..20 {
        // Without a word of goodbye, the ring still running.
        drop(vmm_that_reads(&socket));
        assert_eq!(open_files(), after_first);
    }
}

#[test]
fn a_second_vmm_waits_until_the_first_has_left() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _image) = native_image(dir.path());
    let socket = dir.path().join("disk.sock");
    let daemon = Daemon::serve(&config, &socket);
    let mut first = vmm_that_reads(&socket);
    daemon.wait_for_log("VMM connected");
    let waiting = socket.clone();
    let second = std::thread::spawn(move || drop(vmm_that_reads(&waiting)));
    let line = daemon.wait_for_log("another VMM waits");
    assert!(line.contains("disk.sock"), "{line}");
    for _ in 0..10 {
        first.read(2, 4096);
    }
    drop(first);
    let next = daemon.wait_for_log(": VMM ");
    assert!(next.contains("disconnected"), "{next}");
    second.join().unwrap();
}

#[test]
fn a_stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _image) = native_image(dir.path());
    let socket = dir.path().join("disk.sock");
    drop(UnixListener::bind(&socket).unwrap());
    let _daemon = Daemon::serve(&config, &socket);
    vmm_that_reads(&socket);
}

#[test]
fn a_killed_daemon_is_replaced_on_the_same_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _image) = native_image(dir.path());
    let socket = dir.path().join("disk.sock");
    let mut first = Daemon::serve(&config, &socket);
    first.signal("KILL");
    first.wait();
    assert!(socket.exists());
    let _second = Daemon::serve(&config, &socket);
    vmm_that_reads(&socket);
}

#[test]
fn a_socket_in_use_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _image) = native_image(dir.path());
    let socket = dir.path().join("disk.sock");
    let _daemon = Daemon::serve(&config, &socket);
    let args = [
        "--config".as_ref(),
        config.as_os_str(),
        "--socket".as_ref(),
        socket.as_os_str(),
    ];
    let output = command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("disk.sock") && message.contains("listening"),
        "{message}"
    );
    vmm_that_reads(&socket);
}

#[test]
fn both_ending_signals_end_with_0_and_remove_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _image) = native_image(dir.path());
    let socket = dir.path().join("disk.sock");
    for (signal, connected) in [("TERM", false), ("TERM", true), ("INT", true)] {
        let mut daemon = Daemon::serve(&config, &socket);
        let vmm = connected.then(|| vmm_that_reads(&socket));
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0), "{signal} {connected}");
        assert!(!socket.exists());
        drop(vmm);
    }
}

#[test]
fn several_disks_are_served_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _image) = native_image(dir.path());
    let sockets = ["a.sock", "b.sock"].map(|name| dir.path().join(name));
    let mut args = Vec::new();
    for socket in &sockets {
        let disk = format!("config={},socket={}", config.display(), socket.display());
        args.extend(["--disk".to_owned(), disk]);
    }
    let mut daemon = Daemon::start(&args, 2);
    let vmms = sockets.each_ref().map(|socket| vmm_that_reads(socket));
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(sockets.iter().all(|socket| !socket.exists()));
    drop(vmms);
}

#[test]
fn a_missing_image_is_a_failure_and_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("disk.sock");
    let args = [
        "--config",
        "/nonexistent/config.v1.json",
        "--socket",
        socket.to_str().unwrap(),
    ];
    let output = command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("/nonexistent/config.v1.json"), "{message}");
    assert!(!socket.exists());
}

#[test]
fn one_bad_disk_of_several_is_a_failure_and_leaves_no_socket() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _image) = native_image(dir.path());
    let good = dir.path().join("good.sock");
    let args = [
        "--disk".to_owned(),
        format!("config={},socket={}", config.display(), good.display()),
        "--disk".to_owned(),
        format!(
            "config=/nonexistent,socket={}",
            dir.path().join("bad.sock").display()
        ),
    ];
    assert_eq!(command(&args).output().unwrap().status.code(), Some(1));
    assert!(!good.exists());
}

#[test]
fn bad_usage_ends_with_2() {
    for args in [&["--disk", "config=/a"][..], &[], &["--no-such-option"]] {
        assert_eq!(command(args).output().unwrap().status.code(), Some(2));
    }
}

#[test]
fn capabilities_are_printed_as_json() {
    let output = command(&["--print-capabilities"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "{\"type\":\"block\",\"features\":[]}\n");
}
