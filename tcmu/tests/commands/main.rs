//! Commands of the kernel, and how a device answers them.
#![cfg(test)]

#[path = "../ring/kernel.rs"]
#[expect(dead_code, reason = "made for many tests, of which these are some")]
mod kernel;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel::{ANY_ORDER, Answer, Kernel, Wish};
use layers::Service;
use layers::config::ServiceConfig;
use layers::lsmt::upper::{self, CreateOptions, UpperKind};
use layers::lsmt::{LayerBuilder, LayerOptions, Uuid};
use layers::tcmu_names::UioName;
use tcmu::device::Device;
use tcmu::ring::{DataRange, Taker};
use tcmu::uio::Uio;

const DISK_BYTES: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(30);

struct Host {
    kernel: Kernel,
    device: Device,
    taker: Taker,
}

impl Host {
    fn new(config: &Path) -> Self {
        let kernel = Kernel::new(4096, ANY_ORDER);
        let name = format!("tcm-user/1/test/overlaybd/{}", config.display());
        let uio = Uio {
            number: 0,
            name: UioName::parse(&name).unwrap(),
        };
        let (device, taker) = Device::over(uio, Arc::clone(&kernel.region)).unwrap();
        Self {
            kernel,
            device,
            taker,
        }
    }

    fn with_image(config: &Path) -> Self {
        let host = Self::new(config);
        let service = Service::new(ServiceConfig::default());
        host.device.open_disk(&service).unwrap();
        host
    }

    /// A page of the data area.
    fn page(&self, number: usize) -> DataRange {
        DataRange {
            offset: self.kernel.data_start() + 4096 * number,
            len: 4096,
        }
    }

    /// Eight blocks, read or written.
    fn put(&mut self, operation: u8, page: usize) {
        let block = u8::try_from(8 * page).unwrap();
        let data = vec![self.page(page)];
        let wish = Wish {
            cdb: vec![operation, 0, 0, 0, 0, block, 0, 0, 8, 0],
            data,
            bidi: Vec::new(),
        };
        self.kernel.put(wish).unwrap();
    }

    /// Has all done that was put: memory of no device is gone when the ring is empty.
    fn serve(mut self) -> (Kernel, Vec<Answer>) {
        self.device.start(self.taker, drop).unwrap();
        assert!(self.device.stop(Instant::now() + LONG));
        let answers = self.kernel.read_answers();
        assert!(!self.kernel.is_broken);
        assert!(self.kernel.waiting.is_empty(), "without an answer");
        (self.kernel, answers)
    }
}

const READ_10: u8 = 0x28;
const WRITE_10: u8 = 0x2a;
const GOOD: u8 = 0;

fn assert_sense(answer: &Answer, key: u8, code: u8) {
    assert_eq!((answer.flags, answer.status), (0, 2));
    let sense = &answer.sense;
    assert_eq!((sense[2] & 15, sense[12], sense[13]), (key, code, 0));
}

fn writable_image(dir: &Path) -> std::path::PathBuf {
    let (data, index) = (dir.join("data"), dir.join("index"));
    let options = CreateOptions {
        kind: UpperKind::AppendOnly,
        virtual_size_bytes: DISK_BYTES,
        parent_uuid: Uuid::NIL,
    };
    upper::create(&data, &index, options).unwrap();
    let text = format!(
        r#"{{"lowers":[],"upper":{{"data":"{}","index":"{}"}},"resultFile":"{}"}}"#,
        data.display(),
        index.display(),
        dir.join("result").display()
    );
    let config = dir.join("config.json");
    std::fs::write(&config, text).unwrap();
    config
}

fn read_only_image(dir: &Path) -> std::path::PathBuf {
    let options = LayerOptions {
        virtual_size_bytes: DISK_BYTES,
        ..LayerOptions::default()
    };
    let mut builder = LayerBuilder::new(Vec::new(), options).unwrap();
    builder.append(0, &[7; 4096]).unwrap();
    let (bytes, _) = builder.finish().unwrap();
    let layer = dir.join("layer");
    std::fs::write(&layer, bytes).unwrap();
    let text = format!(
        r#"{{"lowers":[{{"file":"{}"}}],"resultFile":"{}"}}"#,
        layer.display(),
        dir.join("result").display()
    );
    let config = dir.join("config.json");
    std::fs::write(&config, text).unwrap();
    config
}

#[test]
fn commands_of_a_device_without_an_open_image_fail_as_unreadable() {
    let mut host = Host::new(Path::new("/none.json"));
    host.put(READ_10, 0);
    host.put(WRITE_10, 1);
    let (_, answers) = host.serve();
    assert_eq!(answers.len(), 2);
    for answer in &answers {
        assert_sense(answer, 3, 0x11);
    }
}

#[test]
fn a_malformed_command_is_a_failure_of_the_target_and_costs_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = Host::with_image(&read_only_image(dir.path()));
    let place = host.kernel.place();
    host.put(READ_10, 0);
    host.kernel.poke(place + 48, &[0xff; 8]);
    host.put(READ_10, 0);
    let (_, answers) = host.serve();
    assert_sense(&answers[0], 4, 0x44);
    assert_eq!(answers[1].status, GOOD);
}

#[test]
fn a_read_only_image_is_read_and_refuses_writes() {
    let dir = tempfile::tempdir().unwrap();
    let mut host = Host::with_image(&read_only_image(dir.path()));
    let page = host.page(0);
    host.put(READ_10, 0);
    host.put(WRITE_10, 1);
    let (kernel, mut answers) = host.serve();
    answers.sort_by_key(|answer| answer.id);
    assert_eq!(answers[0].status, GOOD);
    assert_sense(&answers[1], 7, 0x27);
    let mut bytes = vec![0; 4096];
    kernel.region.copy_out(page, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4096]);
}

#[test]
fn writes_that_come_together_are_all_answered_and_in_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let config = writable_image(dir.path());
    let mut host = Host::with_image(&config);
    for page in 0..12 {
        host.kernel.poke(
            host.page(page).offset,
            &[u8::try_from(page).unwrap() + 1; 4096],
        );
        host.put(WRITE_10, page);
    }
    let (_, answers) = host.serve();
    assert_eq!(answers.len(), 12);
    assert!(answers.iter().all(|answer| answer.status == GOOD));

    let mut host = Host::with_image(&config);
    for page in 0..12 {
        host.put(READ_10, page);
    }
    let (kernel, answers) = host.serve();
    assert!(answers.iter().all(|answer| answer.status == GOOD));
    for page in 0..12 {
        let mut bytes = vec![0; 4096];
        let offset = kernel.data_start() + 4096 * page;
        let range = DataRange { offset, len: 4096 };
        kernel.region.copy_out(range, &mut bytes).unwrap();
        assert_eq!(bytes, [u8::try_from(page).unwrap() + 1; 4096]);
    }
}
