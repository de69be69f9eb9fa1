//! `obd verify` of an image whose layers are elsewhere.

use layers::tool::verify_config;
use test_servers::DockerRegistry;

use crate::support::{Host, Layered, REPO};

#[test]
fn every_block_of_a_remote_layer_is_fetched_and_checked() {
    let registry = DockerRegistry::plain().unwrap();
    let mut image = Layered::new(5, 4 << 20, 2);
    let url = registry.repo_blob_url(REPO);
    let verify = |image: &Layered| {
        let host = Host::new();
        let config = host.config(&url, &image.push(&registry));
        verify_config(&config, &host.service(), &mut |_, _| {})
    };
    let reports = verify(&image);
    assert_eq!(reports.len(), 2);
    assert!(reports.iter().all(|report| report.is_sound()));
    assert!(reports.iter().all(|report| report.checked_bytes > 0));

    let middle = image.blobs[0].len() / 2;
    image.blobs[0][middle] ^= 1;
    let reports = verify(&image);
    let faults: Vec<_> = reports.iter().map(|report| report.fault_count).collect();
    assert_eq!(faults, [1, 0]);
    let fault = reports[0].faults[0].to_string();
    assert!(
        fault.contains("checksum") && fault.contains("sha256:"),
        "{fault}"
    );
}
