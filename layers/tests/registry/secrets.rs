//! No password, token or signature is logged or part of an error, whatever goes wrong.

use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use layers::registry::Blob;

use crate::auth::Tokens;
use crate::server::{Reply, Server};
use crate::support::{Client, DIGEST, fetch, fetch_within};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Keeper;

impl log::Log for Keeper {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.target(), record.args());
        LINES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(line);
    }

    fn flush(&self) {}
}

fn keep_log() {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&Keeper).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// Looks at everything that was said so far by anybody.
fn check_unsaid(said: &[String], secrets: &[&str]) {
    let lines = LINES.lock().unwrap().clone();
    assert!(!lines.is_empty(), "the log is kept");
    for line in lines.iter().chain(said) {
        for secret in secrets {
            assert!(!line.contains(secret), "{secret} in {line}");
        }
    }
}

fn failure(blob: &Blob) -> [String; 2] {
    let error = fetch_within(blob, 0, 10, 1).unwrap_err();
    [error.to_string(), format!("{error:?} {blob:?}")]
}

#[test]
fn failing_logins_say_nothing_secret() {
    keep_log();
    let password = "hunter2-password";
    let encoded = STANDARD.encode(format!("user-of-secrets:{password}"));
    let mut said = Vec::new();
    let tokens = Tokens::start(Duration::from_secs(60), r#"{"token":"{}"}"#, Some("x:y"));
    let giving = Server::start(|_| Reply::status(200).body(r#"{"token":"hunter2-token"}"#));
    let realm = format!("Bearer realm=\"{}\"", giving.url("/t?key=hunter2-realm"));
    let broken = Server::start(|_| Reply::status(200).body(r#"{"token":"hunter2-token\n"}"#));
    let broken_realm = format!("Bearer realm=\"{}\"", broken.url("/t"));
    for (challenge, status) in [
        (tokens.challenge(), 401),
        (realm, 401),
        (broken_realm, 401),
        ("Basic realm=\"hunter2-realm\"".to_owned(), 403),
    ] {
        let registry = Server::start(move |_| {
            Reply::status(status).header("WWW-Authenticate", challenge.clone())
        });
        let client = Client::with_password(&registry.host(), "user-of-secrets", password);
        said.extend(failure(&client.blob(&registry)));
    }
    assert!(
        said.iter().any(|line| line.contains("check credentials")),
        "{said:?}"
    );
    check_unsaid(&said, &["hunter2", &encoded, "Basic dX"]);
}

#[test]
fn failing_targets_accelerators_and_credential_servers_say_nothing_secret() {
    keep_log();
    let mut said = Vec::new();
    for status in [302, 400, 403, 500] {
        let storage = Server::start(move |_| Reply::status(status));
        let to = storage.url("/key-swordfish?X-Amz-Signature=swordfish");
        let registry = Server::start(move |_| Reply::redirect(to.clone()));
        said.extend(failure(&Client::new().blob(&registry)));
        let mut client = Client::new();
        client.config.p2p.enable = true;
        client.config.p2p.address = storage.url("/a").replace("//", "//u:swordfish@");
        said.extend(failure(&client.blob(&registry)));
    }
    let gone = "http://u:swordfish@127.0.0.1:1/auth?key=swordfish";
    let mut client = Client::new();
    client.config.credentials = layers::config::ServiceConfig::parse(
        format!(r#"{{"credentialConfig":{{"mode":"http","path":"{gone}"}}}}"#).as_bytes(),
    )
    .unwrap()
    .credentials;
    let registry = Server::start(|_| Reply::challenge("Basic realm=r"));
    said.extend(failure(&client.blob(&registry)));
    check_unsaid(&said, &["swordfish"]);
}

#[test]
fn a_working_login_says_nothing_secret_either() {
    keep_log();
    let tokens = Tokens::start(
        Duration::from_secs(60),
        r#"{"token":"{}"}"#,
        Some("me:opensesame"),
    );
    let registry = tokens.registry();
    let client = Client::with_password(&registry.host(), "me", "opensesame");
    let shared = client.start().unwrap();
    let blob = shared
        .blob(&registry.url("/v2/secret/app/blobs"), DIGEST, None)
        .unwrap();
    fetch(&blob, 0, 10).unwrap();
    let sent = registry.requests().pop().unwrap();
    let header = sent.header("authorization").unwrap();
    let said = [format!("{shared:?} {blob:?}")];
    check_unsaid(&said, &["opensesame", header]);
}
