//! Many threads answer at once.

use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tcmu::ring::{Command, Status, Taken};

use crate::kernel::{ANY_ORDER, Kernel, Wish, assert_answer, status};

const THREADS: usize = 4;
const COMMANDS: u32 = 5_000;
const LONG: Duration = Duration::from_secs(30);

/// Its number, with a command block of 6 to 16 bytes.
fn numbered(number: u32) -> Wish {
    let mut cdb = number.to_le_bytes().to_vec();
    cdb.resize(6 + number as usize % 11, 0);
    Wish {
        cdb,
        ..Wish::default()
    }
}

fn status_of(number: u32) -> Status {
    status(number.to_le_bytes()[0])
}

fn every_command_is_answered_once(flags: u16) {
    let mut kernel = Kernel::new(2000, flags);
    let (mut taker, completer) = kernel.open();
    let completer = Arc::new(completer);
    let (give, jobs) = mpsc::channel::<(u16, u32)>();
    let (done, news) = mpsc::channel();
    let jobs = Arc::new(Mutex::new(jobs));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let (jobs, done, completer) = (Arc::clone(&jobs), done.clone(), Arc::clone(&completer));
            scope.spawn(move || {
                loop {
                    let job = jobs.lock().unwrap().recv();
                    let Ok((id, number)) = job else { return };
                    assert!(completer.complete(id, status_of(number)));
                    done.send(()).unwrap();
                }
            });
        }
        // Also when something here fails.
        let give = give;
        let mut numbers = BTreeMap::new();
        let (mut put, mut answered) = (0, 0);
        let mut command = Command::default();
        while answered < COMMANDS {
            while put < COMMANDS
                && let Some(id) = kernel.put(numbered(put))
            {
                numbers.insert(id, put);
                put += 1;
                if put % 7 == 0 {
                    kernel.put_task_management(&[id]);
                }
            }
            loop {
                match taker.take(&mut command).unwrap() {
                    Taken::Command => {
                        let number = u32::from_le_bytes(command.cdb[..4].try_into().unwrap());
                        assert_eq!(numbers[&command.id], number);
                        give.send((command.id, number)).unwrap();
                    }
                    Taken::TaskManagement => {}
                    Taken::Nothing => break,
                    Taken::Malformed => panic!("malformed"),
                }
            }
            news.recv_timeout(LONG).unwrap();
            for answer in kernel.read_answers() {
                let number = numbers.remove(&answer.id).unwrap();
                assert_answer(&answer, answer.id, status_of(number));
                if flags == 0 {
                    assert_eq!(number, answered, "out of order");
                }
                answered += 1;
            }
            assert!(!kernel.is_broken);
        }
        drop(give);
    });
    assert!(kernel.waiting.is_empty());
}

#[test]
fn every_command_is_answered_once_in_any_order() {
    every_command_is_answered_once(ANY_ORDER);
}

#[test]
fn every_command_is_answered_once_in_the_rings_order() {
    every_command_is_answered_once(0);
}
