//! No daemon, or no image: nothing hangs for ever, and the tools say what to do.

use anyhow::Result;
use qemu_tests::host_vm::DATA;
use qemu_tests::lab::Lab;

use crate::scene::boot;
use crate::shell::script;

#[test]
fn a_device_without_its_image_fails_alone_and_comes_back() -> Result<()> {
    Lab::run(|lab| {
        lab.expect_in_logs("I/O error");
        lab.expect_in_logs("its I/O fails until the image opens");
        let mut host = boot(lab.container_host("missing"))?;
        script(
            &mut host,
            90,
            &format!(
                "cp {DATA}/native/layer0.obd $scratch/one.obd; cp {DATA}/native/layer0.obd $scratch/two.obd
                read_only one $scratch/one.obd; read_only two $scratch/two.obd
                start_daemon
                obd attach $scratch/one.json >/run/one && obd attach $scratch/two.json >/run/two || fail attach
                kill_daemon; mv $scratch/one.obd $scratch/away; start_daemon"
            ),
        )?;
        script(
            &mut host,
            90,
            "before=$(date +%s)
            timeout 60 dd if=$(cat /run/one) of=/dev/null bs=4k count=1 iflag=direct 2>&1; [ $? = 1 ] || fail 'the read did not fail'
            echo \"failed after $(($(date +%s) - before)) s\"
            grep -q \"one.*its I/O fails until the image opens\" $log || fail 'the log does not say so'
            timeout 20 dd if=$(cat /run/two) bs=4k count=16 iflag=direct status=none of=/dev/null || fail 'the other device'",
        )
        .map(|told| crate::shell::tell(&told))?;
        script(
            &mut host,
            90,
            "mv $scratch/away $scratch/one.obd
            reads() { timeout 10 dd if=$(cat /run/one) bs=4k count=16 iflag=direct status=none of=/dev/null; }
            within 40 reads
            cmp -n 65536 $(cat /run/one) $(cat /run/two) || fail 'other bytes'
            kill_daemon; mv $scratch/one.obd $scratch/away; start_daemon
            timeout 60 obd detach $(cat /run/one) || fail 'detach without image'
            timeout 60 obd detach $(cat /run/two) || fail 'detach with image'
            no_devices || fail 'devices stay'",
        )?;
        // The failed reads are in the kernel's log, which shutting down would complain of.
        host.kill()
    })
}

#[test]
fn a_dead_daemon_is_told_and_what_hangs_can_be_freed() -> Result<()> {
    Lab::run(|lab| {
        lab.expect_in_logs("I/O error");
        lab.expect_in_logs("nothing.obd\" does not exist");
        let mut host = boot(lab.container_host("dead"))?;
        script(
            &mut host,
            90,
            &format!(
                "read_only one {DATA}/native/layer0.obd; start_daemon
                obd attach $scratch/one.json >/run/one || fail attach
                obd doctor || fail 'doctor complains'
                kill_daemon
                obd ls | grep -w none || fail \"ls: $(obd ls)\"
                obd doctor >/run/doctor; [ $? = 1 ] || fail 'doctor is content'
                grep 'does not run' /run/doctor && grep 'no process serves it' /run/doctor || fail \"$(cat /run/doctor)\"
                timeout 20 obd attach $scratch/one.json --name other 2>&1 | grep 'no overlaybd-tcmu serves' || fail 'attach without a daemon'"
            ),
        )?;
        script(
            &mut host,
            90,
            "dd if=$(cat /run/one) of=/dev/null bs=4k count=1 iflag=direct 2>/dev/null & reader=$!
            within 20 in_flight $(cat /run/one)
            obd doctor --unstick
            within 60 gone $reader
            timeout 60 obd detach $(cat /run/one) || fail detach
            no_devices || fail 'devices stay'",
        )?;
        script(
            &mut host,
            90,
            "waits() { grep -q tcmu /proc/$1/wchan; }
            hang() {
                mkdir -p $core/user_7/$1; echo -n dev_config=overlaybd/$scratch/one.json >$core/user_7/$1/control
                (echo 1 >$core/user_7/$1/enable) 2>/dev/null & enable=$!
                within 20 waits $enable
            }
            hang by-tool; obd doctor --unstick; within 20 gone $enable; timeout 20 rmdir $core/user_7/by-tool || fail 'rmdir by-tool'
            hang by-daemon; start_daemon; within 20 gone $enable; timeout 20 rmdir $core/user_7/by-daemon || fail 'rmdir by-daemon'
            no_devices || fail 'devices stay'
            obd attach $scratch/one.json >/run/one && obd detach $(cat /run/one) || fail 'attach after that'",
        )?;
        script(
            &mut host,
            60,
            "read_only bad $scratch/nothing.obd
            timeout 50 obd attach $scratch/bad.json >/run/told 2>&1; [ $? = 1 ] || fail 'attach of a bad image'
            grep 'the daemon says: .*nothing.obd' /run/told || fail \"no reason: $(cat /run/told)\"
            no_devices && ! ls -d $core/user_*/*/enable 2>/dev/null || fail 'something stays'",
        )?;
        host.kill()
    })
}

#[test]
fn a_mounted_disk_whose_daemon_is_gone_can_be_let_go() -> Result<()> {
    Lab::run(|lab| {
        // What was not flushed is lost, and the kernel says so.
        for trouble in ["I/O error", "EXT4-fs error", "EXT4-fs warning"] {
            lab.expect_in_logs(trouble);
        }
        let mut host = boot(lab.container_host("let-go"))?;
        script(
            &mut host,
            120,
            "start_daemon; writable disk -s
            disk=$(obd attach $scratch/disk.json) || fail attach
            mkfs.ext4 -q $disk && mkdir /run/image && mount $disk /run/image || fail mount
            kill_daemon
            (head -c 4M /dev/urandom >/run/image/file; sync -f /run/image) >/dev/null 2>&1 & writer=$!
            within 20 in_flight $disk
            obd doctor --unstick
            within 20 gone $writer the-writer
            umount /run/image >/dev/null 2>&1 & umount=$!
            within 20 gone $umount umount
            obd detach $disk >/run/detach 2>&1 & detach=$!
            within 20 gone $detach detach
            wait $detach || fail detach $(cat /run/detach)
            no_devices || fail 'the device stays'
            none_stuck() { ! grep -q '^State:.D' /proc/[0-9]*/status; }
            within 20 none_stuck",
        )?;
        host.kill()
    })
}

#[test]
fn a_ring_that_was_reset_behind_the_daemon_is_taken_up_again() -> Result<()> {
    Lab::run(|lab| {
        lab.expect_in_logs("its ring is reset and it is taken up again");
        let mut host = boot(lab.container_host("reset"))?;
        script(
            &mut host,
            120,
            "start_daemon; writable disk
            disk=$(obd attach --name disk $scratch/disk.json) || fail attach
            head -c 4M /dev/urandom >/run/bytes
            dd if=/run/bytes of=$disk bs=64k oflag=direct status=none || fail write
            echo 1 >$(ls -d $core/user_*/disk/action)/reset_ring
            timeout 60 dd if=$disk bs=64k count=64 iflag=direct status=none | cmp - /run/bytes || fail 'other bytes'
            timeout 60 dd if=/run/bytes of=$disk bs=64k seek=64 oflag=direct status=none || fail 'write again'
            [ $(grep -c 'taken up again' $log) = 1 ] || fail 'the log does not say so'
            timeout 60 obd detach $disk || fail detach
            no_devices || fail 'the device stays'",
        )?;
        host.shut_down()
    })
}

#[test]
fn a_device_whose_image_does_not_open_leaves_nothing_behind() -> Result<()> {
    Lab::run(|lab| {
        lab.expect_in_logs("nothing.obd\" does not exist");
        let mut host = boot(lab.container_host("nothing"))?;
        script(
            &mut host,
            90,
            "start_daemon; read_only bad $scratch/nothing.obd
            device=$core/user_7/bad; mkdir -p $device
            echo -n \"dev_config=overlaybd/$scratch/bad.json;id\" >$device/control
            (echo 1 >$device/enable) 2>/run/told && fail 'enabled'
            grep -q 'No such file' /run/told || fail \"$(cat /run/told)\"
            grep -q '^failed:' $scratch/bad.result || fail \"$(cat $scratch/bad.result)\"
            rmdir $device || fail rmdir
            no_devices && [ -z \"$(ls -A /run/overlaybd-tcmu)\" ] || fail \"$(ls -A /run/overlaybd-tcmu)\"
            # Its id is free again.
            writable good; disk=$(obd attach --dev-id id $scratch/good.json) || fail attach
            obd detach $disk || fail detach",
        )?;
        host.shut_down()
    })
}
