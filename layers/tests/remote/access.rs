//! Every way into a registry gives the bytes of the image.

use std::time::{Duration, Instant};

use serde_json::json;
use test_servers::{
    Certificates, DockerRegistry, ExpiryStyle, Proxy, RedirectServer, RegistryAuth,
    RegistryOptions, Shape, TokenOptions, TokenServer,
};

use crate::support::{Host, Layered, REPO, assert_is, pieces, read_piece};

const DISK_BYTES: usize = 1 << 20;

fn registry_with(auth: RegistryAuth) -> DockerRegistry {
    DockerRegistry::start(RegistryOptions {
        auth,
        ..RegistryOptions::default()
    })
    .unwrap()
}

#[test]
fn an_image_in_a_plain_registry_is_read_right_and_its_second_reader_asks_nobody() {
    let registry = DockerRegistry::plain().unwrap();
    let image = Layered::new(1, DISK_BYTES, 3);
    let blobs = image.push(&registry);
    let proxy = Proxy::start(registry.address()).unwrap();
    let (host, url) = (Host::new(), proxy.repo_blob_url(REPO));
    assert_is(&host.open(&url, &blobs).unwrap(), &image.disk);
    let result = std::fs::read_to_string(host.result_file()).unwrap();
    assert_eq!(result, "success");
    let (fetched, whole) = (proxy.body_bytes(), image.blob_bytes());
    assert!(fetched <= whole, "{fetched} of {whole} bytes fetched");

    proxy.forget();
    assert_is(&host.open(&url, &blobs).unwrap(), &image.disk);
    assert_eq!(proxy.log(), []);
}

#[test]
fn sizes_that_a_config_does_not_tell_are_asked_for() {
    let registry = DockerRegistry::plain().unwrap();
    let image = Layered::new(2, DISK_BYTES, 2);
    let mut blobs = image.push(&registry);
    blobs.iter_mut().for_each(|(_, size)| *size = 0);
    let url = registry.repo_blob_url(REPO);
    assert_is(&Host::new().open(&url, &blobs).unwrap(), &image.disk);
}

#[test]
fn a_registry_of_a_private_ca_that_wants_a_client_certificate_is_read() {
    let registry = DockerRegistry::start(RegistryOptions {
        tls: Some(Certificates::new().unwrap()),
        client_certificates: true,
        ..RegistryOptions::default()
    })
    .unwrap();
    let image = Layered::new(3, DISK_BYTES, 2);
    let blobs = image.push(&registry);
    let files = registry.certificates().unwrap();
    let host = Host::new().with(
        "certConfig",
        json!({ "caFile": files.ca(), "certFile": files.client(), "keyFile": files.client_key() }),
    );
    let url = registry.repo_blob_url(REPO);
    assert_is(&host.open(&url, &blobs).unwrap(), &image.disk);

    let stranger = Host::new();
    let error = stranger.open(&url, &blobs).unwrap_err().to_string();
    assert!(error.to_lowercase().contains("certificate"), "{error}");
    let result = std::fs::read_to_string(stranger.result_file()).unwrap();
    assert!(result.ends_with("Connection failed"), "{result}");
}

#[test]
fn a_registry_with_passwords_is_read_with_the_right_one_only() {
    let registry = registry_with(RegistryAuth::Basic {
        user: "alice".to_owned(),
        password: "s3cret".to_owned(),
    });
    let image = Layered::new(4, DISK_BYTES, 2);
    let blobs = image.push(&registry);
    let (name, url) = (registry.address().to_string(), registry.repo_blob_url(REPO));
    let host = Host::new().with_login(&name, "alice", "s3cret");
    assert_is(&host.open(&url, &blobs).unwrap(), &image.disk);

    let wrong = Host::new().with_login(&name, "alice", "Hunter2");
    let error = wrong.open(&url, &blobs).unwrap_err().to_string();
    assert!(error.contains("401"), "{error}");
    assert!(!error.contains("Hunter2"), "{error}");
    let result = std::fs::read_to_string(wrong.result_file()).unwrap();
    assert!(result.ends_with("Authentication failed"), "{result}");
}

#[test]
fn a_registry_with_tokens_is_read() {
    let login = Some(("bob".to_owned(), "pw".to_owned()));
    let options = TokenOptions {
        login,
        ..TokenOptions::default()
    };
    let registry = registry_with(RegistryAuth::Bearer(TokenServer::start(options).unwrap()));
    let image = Layered::new(5, DISK_BYTES, 4);
    let blobs = image.push(&registry);
    let host = Host::new().with_login(&registry.address().to_string(), "bob", "pw");
    let url = registry.repo_blob_url(REPO);
    assert_is(&host.open(&url, &blobs).unwrap(), &image.disk);
    let asked = registry.tokens().unwrap().requests();
    assert_eq!(asked.len(), 1, "one token for all layers: {asked:?}");
}

/// Four guests read all of the disk, over and over, for so long. How many times they read it.
fn read_for(time: Duration, image: &layers::Image, disk: &[u8]) -> usize {
    let end = Instant::now() + time;
    let read = |reader: u64| {
        (0..)
            .take_while(|pass| {
                let pieces = pieces(reader * 1000 + pass, disk.len(), 16 << 10);
                pieces
                    .into_iter()
                    .take_while(|_| Instant::now() < end)
                    .for_each(|piece| read_piece(image, disk, piece).unwrap());
                Instant::now() < end
            })
            .count()
    };
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|reader| scope.spawn(move || read(reader)))
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .sum()
    })
}

#[test]
fn tokens_of_two_seconds_last_through_thirty_seconds_of_reads() {
    let registry = DockerRegistry::plain().unwrap();
    let image = Layered::new(6, 6 << 20, 3);
    let blobs = image.push(&registry);
    let tokens = TokenServer::start(TokenOptions::life(2)).unwrap();
    let proxy = Proxy::start(registry.address()).unwrap();
    proxy.demand_tokens(&tokens);
    let host = Host::new();
    let disk = host.open(&proxy.repo_blob_url(REPO), &blobs).unwrap();
    // Slow enough that there is always something left to fetch: 40 s for all of it.
    let bits = u32::try_from(image.blob_bytes() * 8).unwrap();
    proxy.set_shape(Shape {
        bits_per_second: Some(bits / 40),
        round_trip: Duration::from_millis(5),
    });
    read_for(Duration::from_secs(30), &disk, &image.disk);

    let asked = tokens.requests().len();
    assert!((10..=45).contains(&asked), "{asked} tokens in 30 s");
    let log = proxy.log();
    let last_fetch = log.iter().rev().take(10).any(|one| one.status == 206);
    assert!(last_fetch, "the load went on until the end");
    let refused = log.iter().filter(|one| one.status == 401).count();
    assert!(
        refused <= 10,
        "{refused} of {} requests were refused",
        log.len()
    );
}

#[test]
fn signed_urls_of_two_seconds_are_renewed_and_never_see_the_token() {
    let registry = DockerRegistry::plain().unwrap();
    let image = Layered::new(7, 3 << 20, 3);
    let blobs = image.push(&registry);
    let life = Duration::from_secs(2);
    let redirecting = RedirectServer::start(registry.address(), life, ExpiryStyle::Amazon).unwrap();
    let tokens = TokenServer::start(TokenOptions::life(3600)).unwrap();
    let gate = Proxy::start(redirecting.address()).unwrap();
    gate.demand_tokens(&tokens);
    // Many small requests, so that they go on for longer than a URL lives.
    let host = Host::new().with_refill(4096);
    let disk = host.open(&gate.repo_blob_url(REPO), &blobs).unwrap();
    redirecting.set_target_delay(Duration::from_millis(100));
    read_for(Duration::from_secs(10), &disk, &image.disk);

    let counts = redirecting.counts();
    assert_eq!(counts.leaked_authorizations, 0, "{counts:?}");
    let used = counts.target_requests - counts.refused;
    assert!(counts.redirects < used, "URLs are used again: {counts:?}");
    assert!(counts.redirects > blobs.len() as u64, "renewed: {counts:?}");
}
