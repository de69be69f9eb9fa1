//! The servers do what tests of others rely on.
#![cfg(test)]

use std::time::{Duration, Instant};

use reqwest::blocking::{Client, Response};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Identity};
use test_servers::{
    Certificates, DockerRegistry, ExpiryStyle, Fault, Faults, Proxy, RedirectServer, RegistryAuth,
    RegistryOptions, Shape, TokenOptions, TokenServer,
};

const REPO: &str = "team/image";

fn client() -> Client {
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

fn bytes(len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    (0..len).map(|_| random.u8(..)).collect()
}

/// A plain registry with one blob, behind a proxy.
fn behind_proxy(len: usize) -> (DockerRegistry, Proxy, String, Vec<u8>) {
    let registry = DockerRegistry::plain().unwrap();
    let blob = bytes(len);
    let digest = registry.push_blob(REPO, &blob).unwrap();
    let proxy = Proxy::start(registry.address()).unwrap();
    let url = format!("{}/{digest}", proxy.repo_blob_url(REPO));
    (registry, proxy, url, blob)
}

fn range(url: &str, range: &str) -> reqwest::Result<Response> {
    let range = format!("bytes={range}");
    client().get(url).header("Range", range).send()
}

#[test]
fn a_pushed_blob_is_read_by_range_and_survives_a_restart() {
    let registry = DockerRegistry::plain().unwrap();
    let blob = bytes(100_000);
    let digest = registry.push_blob(REPO, &blob).unwrap();
    let url = format!("{}/{digest}", registry.repo_blob_url(REPO));
    let answer = range(&url, "10-19").unwrap();
    assert_eq!(answer.status(), 206);
    assert_eq!(answer.bytes().unwrap(), blob[10..20]);
    assert_eq!(std::fs::read(registry.blob_file(&digest)).unwrap(), blob);

    registry.kill();
    client().get(&url).send().unwrap_err();
    registry.start_again().unwrap();
    assert_eq!(client().get(&url).send().unwrap().bytes().unwrap(), blob);
    assert!(registry.log().contains("GET"), "{}", registry.log());
}

#[test]
fn a_file_is_pushed_as_a_stream() {
    let registry = DockerRegistry::plain().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes(3 << 20)).unwrap();
    let digest = registry.push_file(REPO, file.path()).unwrap();
    let url = format!("{}/{digest}", registry.repo_blob_url(REPO));
    let answer = client().get(&url).send().unwrap();
    assert_eq!(answer.bytes().unwrap(), bytes(3 << 20));
}

#[test]
fn a_tls_registry_wants_a_client_certificate_of_its_ca() {
    let registry = DockerRegistry::start(RegistryOptions {
        tls: Some(Certificates::new().unwrap()),
        client_certificates: true,
        ..RegistryOptions::default()
    })
    .unwrap();
    let digest = registry.push_blob(REPO, b"over TLS").unwrap();
    let url = format!("{}/{digest}", registry.repo_blob_url(REPO));
    let files = registry.certificates().unwrap();
    let ca = Certificate::from_pem(&std::fs::read(files.ca()).unwrap()).unwrap();
    let with_ca = || Client::builder().no_proxy().tls_certs_only([ca.clone()]);
    with_ca().build().unwrap().get(&url).send().unwrap_err();
    let pem = [files.client(), files.client_key()].map(|file| std::fs::read(file).unwrap());
    let identity = Identity::from_pem(&pem.concat()).unwrap();
    let known = with_ca().identity(identity).build().unwrap();
    assert_eq!(known.get(&url).send().unwrap().text().unwrap(), "over TLS");
    client().get(&url).send().unwrap_err(); // Nobody else trusts the CA.
}

#[test]
fn a_registry_with_passwords_refuses_others() {
    let registry = DockerRegistry::start(RegistryOptions {
        auth: RegistryAuth::Basic {
            user: "alice".to_owned(),
            password: "s3cret".to_owned(),
        },
        ..RegistryOptions::default()
    })
    .unwrap();
    let digest = registry.push_blob(REPO, b"for alice").unwrap();
    let url = format!("{}/{digest}", registry.repo_blob_url(REPO));
    let refused = client().get(&url).send().unwrap();
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.starts_with("Basic"), "{challenge}");
    let answer = client().get(&url).basic_auth("alice", Some("s3cret"));
    assert_eq!(answer.send().unwrap().text().unwrap(), "for alice");
}

#[test]
fn a_registry_with_tokens_accepts_those_of_its_token_server() {
    let options = TokenOptions {
        login: Some(("bob".to_owned(), "pw".to_owned())),
        ..TokenOptions::life(60)
    };
    let registry = DockerRegistry::start(RegistryOptions {
        auth: RegistryAuth::Bearer(TokenServer::start(options).unwrap()),
        ..RegistryOptions::default()
    })
    .unwrap();
    let digest = registry.push_blob(REPO, b"for tokens").unwrap();
    let url = format!("{}/{digest}", registry.repo_blob_url(REPO));
    let refused = client().get(&url).send().unwrap();
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
    let tokens = registry.tokens().unwrap();
    assert!(challenge.contains(&tokens.realm()), "{challenge}");
    assert!(
        challenge.contains("scope=\"repository:team/image:pull\""),
        "{challenge}"
    );

    let ask = |user| {
        let url = format!(
            "{}?service=obd%20test%20registry&scope=repository:{REPO}:pull",
            tokens.realm()
        );
        client()
            .get(url)
            .basic_auth(user, Some("pw"))
            .send()
            .unwrap()
    };
    assert_eq!(ask("eve").status(), 401);
    let answer: serde_json::Value = serde_json::from_str(&ask("bob").text().unwrap()).unwrap();
    assert_eq!(answer["expires_in"], 60);
    let token = answer["token"].as_str().unwrap();
    let blob = client().get(&url).bearer_auth(token).send().unwrap();
    assert_eq!(blob.text().unwrap(), "for tokens");
    let asked = tokens.requests();
    assert_eq!(asked.len(), 2);
    assert_eq!(
        (asked[1].user.as_deref(), asked[1].status),
        (Some("bob"), 200)
    );
    assert_eq!(asked[1].scopes, ["repository:team/image:pull"]);

    tokens.set_options(TokenOptions {
        failure: Some(500),
        ..TokenOptions::default()
    });
    assert_eq!(ask("bob").status(), 500);
}

#[test]
fn a_gate_lets_only_unexpired_tokens_pass() {
    let (_registry, proxy, url, blob) = behind_proxy(100);
    let tokens = TokenServer::start(TokenOptions::life(3600)).unwrap();
    proxy.demand_tokens(&tokens);
    let refused = client().get(&url).send().unwrap();
    assert_eq!(refused.status(), 401);
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.contains("repository:team/image:pull"),
        "{challenge}"
    );
    let token = tokens.issue("repository:team/image:pull").unwrap();
    let get = || client().get(&url).bearer_auth(&token).send().unwrap();
    assert_eq!(get().bytes().unwrap(), blob);
    tokens.revoke_all();
    assert_eq!(get().status(), 401);
}

#[test]
fn a_proxy_counts_requests_and_bytes() {
    let (_registry, proxy, url, blob) = behind_proxy(50_000);
    let client = client();
    for _ in 0..3 {
        let answer = client.get(&url).header("Range", "bytes=100-1099");
        assert_eq!(answer.send().unwrap().bytes().unwrap(), blob[100..1100]);
    }
    assert_eq!((proxy.requests(), proxy.body_bytes()), (3, 3000));
    assert_eq!(proxy.connections(), 1, "connections are kept");
    let first = proxy.log().swap_remove(0);
    assert_eq!(first.range.as_deref(), Some("bytes=100-1099"));
    assert_eq!((first.status, first.body_bytes), (206, 1000));
    proxy.forget();
    assert_eq!((proxy.requests(), proxy.body_bytes()), (0, 0));
}

#[test]
fn every_fault_is_what_it_says() {
    let (_registry, proxy, url, blob) = behind_proxy(300_000);
    let get = || range(&url, "1000-200999");
    let right = &blob[1000..201_000];
    let spoiled = |fault| proxy.set_faults(Faults::next(1, fault));

    spoiled(Fault::HangUp);
    get().unwrap_err();
    for fault in [Fault::Reset, Fault::Truncate] {
        spoiled(fault);
        get().unwrap().bytes().unwrap_err();
    }
    spoiled(Fault::ShortLength);
    let short = get().unwrap();
    let content_range = short.headers()["content-range"].to_str().unwrap();
    assert_eq!(content_range, "bytes 1000-200999/300000");
    let short = short.bytes().unwrap();
    assert!(short.len() < right.len() && right.starts_with(&short));

    spoiled(Fault::WrongContentRange);
    let moved = get().unwrap();
    assert_eq!(moved.headers()["content-range"], "bytes 1512-201511/300000");
    spoiled(Fault::WholeBlob);
    let whole = get().unwrap();
    assert_eq!(whole.status(), 200);
    assert_eq!(whole.bytes().unwrap(), blob);
    spoiled(Fault::FlippedBit);
    let flipped = get().unwrap().bytes().unwrap();
    let wrong = flipped.iter().zip(right).filter(|(a, b)| a != b);
    assert_eq!((wrong.count(), flipped.len()), (1, right.len()));
    spoiled(Fault::Status {
        code: 429,
        retry_after: Some(3),
    });
    let throttled = get().unwrap();
    assert_eq!(throttled.status(), 429);
    assert_eq!(throttled.headers()["retry-after"], "3");

    // All of them were for one request only.
    assert_eq!(get().unwrap().bytes().unwrap(), right);
    assert_eq!(
        proxy.log().iter().filter(|one| one.fault.is_some()).count(),
        8
    );
}

#[test]
fn a_stalled_body_never_ends_until_the_proxy_does() {
    let (_registry, proxy, url, _blob) = behind_proxy(300_000);
    proxy.set_faults(Faults::always(Fault::Stall));
    let client = Client::builder()
        .no_proxy()
        .timeout(Duration::from_millis(300))
        .build()
        .unwrap();
    let error = client.get(&url).send().unwrap().bytes().unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    proxy.stop();
}

#[test]
fn random_faults_are_the_same_for_the_same_seed() {
    let (_registry, proxy, url, _blob) = behind_proxy(1000);
    let faults = |seed| {
        proxy.forget();
        let kinds = vec![Fault::status(503), Fault::status(429)];
        proxy.set_faults(Faults::random(seed, 500, kinds));
        for _ in 0..40 {
            drop(range(&url, "0-9").unwrap());
        }
        proxy.log().iter().map(|one| one.fault).collect::<Vec<_>>()
    };
    let first = faults(1);
    assert_eq!(first, faults(1));
    assert_ne!(first, faults(2));
    let count = first.iter().flatten().count();
    assert!((8..=32).contains(&count), "{count} of 40");
}

#[test]
fn a_shaped_link_has_its_bandwidth_and_its_delay() {
    let (_registry, proxy, url, blob) = behind_proxy(250_000);
    // 2 megabits at 10 a second: 200 ms; two round trips of 50 ms.
    proxy.set_shape(Shape {
        bits_per_second: Some(10_000_000),
        round_trip: Duration::from_millis(50),
    });
    let started = Instant::now();
    assert_eq!(range(&url, "0-").unwrap().bytes().unwrap(), blob);
    let time = started.elapsed().as_millis();
    assert!((300..1500).contains(&time), "{time} ms");
}

#[test]
fn two_connections_share_the_bandwidth() {
    let (_registry, proxy, url, _blob) = behind_proxy(250_000);
    proxy.set_shape(Shape {
        bits_per_second: Some(10_000_000),
        ..Shape::default()
    });
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| range(&url, "0-").unwrap().bytes().unwrap());
        }
    });
    let time = started.elapsed().as_millis();
    assert!((400..2000).contains(&time), "{time} ms");
}

#[test]
fn a_proxy_is_stopped_and_started_on_its_port() {
    let (_registry, proxy, url, blob) = behind_proxy(1000);
    proxy.stop();
    assert!(range(&url, "0-").unwrap_err().is_connect());
    proxy.start_again().unwrap();
    assert_eq!(range(&url, "0-").unwrap().bytes().unwrap(), blob);
}

#[test]
fn a_signed_url_is_good_for_its_life_only_and_sees_no_authorization() {
    let registry = DockerRegistry::plain().unwrap();
    let digest = registry.push_blob(REPO, b"elsewhere").unwrap();
    let redirecting = RedirectServer::start(
        registry.address(),
        Duration::from_secs(3600),
        ExpiryStyle::Amazon,
    )
    .unwrap();
    let url = format!("{}/{digest}", redirecting.repo_blob_url(REPO));
    let location = || {
        let answer = client().get(&url).send().unwrap();
        assert_eq!(answer.status(), 307);
        answer.headers()["location"].to_str().unwrap().to_owned()
    };
    let signed = location();
    assert!(signed.contains("X-Amz-Expires=3600"), "{signed}");
    assert!(signed.contains(&redirecting.target_address().to_string()));
    let blob = range(&signed, "4-").unwrap();
    assert_eq!(blob.status(), 206);
    assert_eq!(blob.text().unwrap(), "where");
    let forged = signed.replace("Signature=", "Signature=0");
    assert_eq!(client().get(forged).send().unwrap().status(), 403);

    redirecting.set_life(Duration::ZERO);
    let expired = client().get(location()).bearer_auth("t").send().unwrap();
    assert_eq!(expired.status(), 403);
    let counts = redirecting.counts();
    assert_eq!((counts.redirects, counts.target_requests), (2, 3));
    assert_eq!((counts.refused, counts.leaked_authorizations), (2, 1));
}
