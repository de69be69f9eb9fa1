//! An image of many layers, far away.

use std::io::Write;
use std::time::{Duration, Instant};

use test_servers::{DockerRegistry, Proxy, Shape};

use crate::support::{Host, Layered, REPO, assert_is};

const LAYERS: usize = 100;
const ROUND_TRIP: Duration = Duration::from_millis(30);

#[test]
fn a_hundred_layers_behind_thirty_milliseconds_open_in_a_few_round_trips() {
    let registry = DockerRegistry::plain().unwrap();
    let image = Layered::new(1, 1 << 20, LAYERS);
    let blobs = image.push(&registry);
    let proxy = Proxy::start(registry.address()).unwrap();
    proxy.set_shape(Shape {
        round_trip: ROUND_TRIP,
        ..Shape::default()
    });
    let host = Host::new();
    let started = Instant::now();
    let disk = host.open(&proxy.repo_blob_url(REPO), &blobs).unwrap();
    let time = started.elapsed();
    let round_trips = time.as_millis() / ROUND_TRIP.as_millis();
    let requests = proxy.requests();
    // Past the test runner's capture: a figure to be seen.
    writeln!(
        std::io::stderr(),
        "{LAYERS} layers behind {ROUND_TRIP:?}: open in {time:?}, {round_trips} round trips, \
         {requests} requests on {} connections",
        proxy.connections()
    )
    .unwrap();
    assert!(requests <= 3 * LAYERS, "{requests} requests");
    assert!(time < Duration::from_secs(3), "{time:?}");
    proxy.set_shape(Shape::default());
    assert_is(&disk, &image.disk);
}
