//! How the client is let in: tokens, passwords, nobody's name.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use layers::Remote;
use layers::registry::Blob;

use crate::server::{Reply, Request, Server};
use crate::support::{Client, DIGEST, REPOSITORY, check, count, data, fetch, fetch_within, remote};

/// A token server and the tokens that are good at its registry.
pub(crate) struct Tokens {
    pub(crate) server: Server,
    good: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Tokens {
    /// Gives tokens that live `life`, and says so as `answer` (`{}` is the token) does.
    pub(crate) fn start(life: Duration, answer: &'static str, password: Option<&str>) -> Self {
        let good = Arc::new(Mutex::new(Vec::new()));
        let own = Arc::clone(&good);
        let wanted = password.map(|text| format!("Basic {}", STANDARD.encode(text)));
        let server = Server::start(move |request| {
            if wanted.is_some() && request.header("authorization") != wanted.as_deref() {
                return Reply::status(401);
            }
            let token = format!("tok-{}", request.number);
            own.lock()
                .unwrap()
                .push((token.clone(), Instant::now() + life));
            Reply::status(200).body(answer.replace("{}", &token))
        });
        Self { server, good }
    }

    pub(crate) fn checker(&self) -> impl Fn(&Request) -> bool + Send + Sync + 'static {
        let good = Arc::clone(&self.good);
        move |request| {
            let header = request.header("authorization").unwrap_or("");
            let token = header.strip_prefix("Bearer ").unwrap_or("");
            let good = good.lock().unwrap();
            good.iter()
                .any(|(known, until)| known == token && Instant::now() < *until)
        }
    }

    pub(crate) fn challenge(&self) -> String {
        format!(
            r#"Bearer realm="{}", service="registry & co", scope="repository:team/app:pull,push""#,
            self.server.url("/token")
        )
    }

    /// A registry that wants these tokens.
    pub(crate) fn registry(&self) -> Server {
        let (data, is_good, challenge) = (data(), self.checker(), self.challenge());
        Server::start(move |request| match is_good(request) {
            true => Reply::of(&data, request),
            false => Reply::challenge(challenge.clone()),
        })
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn refused(request: &Request) -> bool {
    request.header("authorization").is_none()
}

#[test]
fn a_token_is_asked_for_once_and_with_an_escaped_query() {
    let tokens = Tokens::start(MINUTE, r#"{"token":"{}"}"#, None);
    let registry = tokens.registry();
    let client = Client::new();
    let blob = client.blob(&registry);
    for start in 0..10 {
        check(&blob, start * 100, start * 100 + 50);
    }
    assert_eq!(
        registry.requests().len(),
        11,
        "one was refused, ten were good"
    );
    let asked = tokens.server.requests();
    assert_eq!(asked.len(), 1);
    assert_eq!(
        asked[0].target,
        "/token?service=registry+%26+co&scope=repository%3Ateam%2Fapp%3Apull%2Cpush"
    );
    assert_eq!(asked[0].header("authorization"), None, "nobody's name");
    assert_eq!(count(&client.metrics.registry_tokens), 1);
}

#[test]
fn blobs_of_a_repository_share_its_token() {
    let tokens = Tokens::start(MINUTE, r#"{"access_token":"{}"}"#, None);
    let registry = tokens.registry();
    let client = Client::new();
    let shared = client.start().unwrap();
    let blob = |digest: &str| {
        shared
            .blob(&registry.url(REPOSITORY), digest, None)
            .unwrap()
    };
    let blobs: Vec<Blob> = (0..32)
        .map(|number| blob(&format!("sha256:{number:064x}")))
        .collect();
    std::thread::scope(|scope| {
        for blob in &blobs {
            scope.spawn(move || check(blob, 0, 100));
        }
    });
    assert_eq!(tokens.server.requests().len(), 1);
    assert_eq!(
        registry.count(refused),
        1,
        "the others waited for the first"
    );
}

#[test]
fn tokens_that_live_two_seconds_are_renewed_under_load_without_a_failed_read() {
    let life = Duration::from_secs(2);
    let tokens = Tokens::start(life, r#"{"token":"{}","expires_in":2}"#, None);
    let registry = tokens.registry();
    let client = Client::new();
    let blob = client.blob(&registry);
    let end = Instant::now() + Duration::from_secs(5);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while Instant::now() < end {
                    check(&blob, 1000, 5000);
                }
            });
        }
    });
    let asked = tokens.server.requests().len();
    assert!((3..=6).contains(&asked), "{asked} tokens");
    // In time, that is: before the registry refused the old one.
    assert_eq!(registry.count(refused), 1);
    let answers = registry.requests().len();
    let reads = count(&client.metrics.registry_bytes) / 4000;
    assert!(
        answers as u64 <= reads + 3,
        "{answers} answers for {reads} reads"
    );
}

#[test]
fn a_token_that_was_withdrawn_is_replaced() {
    let tokens = Tokens::start(MINUTE, r#"{"token":"{}","expires_in":3600}"#, None);
    let registry = tokens.registry();
    let blob = Client::new().blob(&registry);
    check(&blob, 0, 10);
    tokens.good.lock().unwrap().clear();
    check(&blob, 10, 20);
    assert_eq!(tokens.server.requests().len(), 2);
    assert_eq!(registry.requests().len(), 4);
}

#[test]
fn credentials_go_to_the_token_server_and_only_there() {
    let tokens = Tokens::start(MINUTE, r#"{"token":"{}"}"#, Some("me:s3cret"));
    let registry = tokens.registry();
    let client = Client::with_password(&format!("{}/team", registry.host()), "me", "s3cret");
    check(&client.blob(&registry), 0, 10);
    let requests = registry.requests();
    let headers = requests
        .iter()
        .filter_map(|request| request.header("authorization"));
    assert!(
        headers
            .into_iter()
            .all(|header| header.starts_with("Bearer "))
    );
}

#[test]
fn a_wrong_password_is_reported_at_once_in_words_that_help() {
    let tokens = Tokens::start(MINUTE, r#"{"token":"{}"}"#, Some("me:s3cret"));
    let registry = tokens.registry();
    let client = Client::with_password(&registry.host(), "me", "wr0ng");
    let error = fetch(&client.blob(&registry), 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::Unauthorized);
    let text = error.to_string();
    let advice = format!("check credentials for {}", registry.host());
    assert!(text.contains(&advice) && text.contains("401"), "{text}");
    assert!(text.contains(&tokens.server.host()), "{text}");
    assert_eq!(tokens.server.requests().len(), 1);
}

#[test]
fn a_registry_that_refuses_fresh_tokens_is_reported_at_once() {
    let tokens = Tokens::start(MINUTE, r#"{"token":"{}"}"#, None);
    let challenge = tokens.challenge();
    let registry = Server::start(move |_| Reply::challenge(challenge.clone()));
    let client = Client::with_password(&registry.host(), "me", "s3cret");
    let error = fetch(&client.blob(&registry), 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::Unauthorized);
    let text = error.to_string();
    let words = format!(
        "after token refresh: check credentials for {}",
        registry.host()
    );
    assert!(text.contains(&words), "{text}");
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn without_credentials_the_error_says_where_they_belong() {
    let tokens = Tokens::start(MINUTE, r#"{"token":"{}"}"#, Some("me:s3cret"));
    let registry = tokens.registry();
    let client = Client::with_password("other.example", "me", "s3cret");
    let error = fetch(&client.blob(&registry), 0, 10).unwrap_err();
    let text = error.to_string();
    let file = client.credentials_file();
    let words = format!(
        "no credentials for {} in {}",
        registry.host(),
        file.display()
    );
    assert!(text.contains(&words), "{text}");
}

#[test]
fn a_changed_password_is_used_at_the_next_need() {
    let tokens = Tokens::start(MINUTE, r#"{"token":"{}"}"#, Some("me:new"));
    let registry = tokens.registry();
    let mut client = Client::with_password(&registry.host(), "me", "old");
    let blob = client.blob(&registry);
    fetch(&blob, 0, 10).unwrap_err();
    client.set_password(&registry.host(), "me", "new");
    check(&blob, 0, 10);
}

#[test]
fn who_waits_for_a_token_that_is_refused_shares_the_refusal() {
    let gate = Arc::new((Mutex::new(false), std::sync::Condvar::new()));
    let own = Arc::clone(&gate);
    let tokens = Server::start(move |request| {
        if request.number == 1 {
            let open = own.0.lock().unwrap();
            let time = Duration::from_secs(20);
            drop(own.1.wait_timeout_while(open, time, |open| !*open).unwrap());
        }
        Reply::status(401)
    });
    let challenge = format!("Bearer realm=\"{}\"", tokens.url("/t"));
    let server = Server::start(move |_| Reply::challenge(challenge.clone()));
    let client = Client::new();
    let blob = client.blob(&server);
    fetch(&blob, 0, 1).unwrap_err();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let error = fetch(&blob, 0, 1).unwrap_err();
                assert_eq!(remote(&error), Remote::Unauthorized);
            });
        }
        tokens.wait_for(2);
        let in_flight = &client.metrics.registry_in_flight;
        while count(in_flight) < 16 {
            std::thread::yield_now();
        }
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
    });
    // The last may count as in flight a moment before it waits.
    let asked = tokens.requests().len() - 1;
    assert!(asked <= 3, "{asked} requests for 16 reads");
}

#[test]
fn a_token_server_that_fails_is_asked_again() {
    let good = Tokens::start(MINUTE, r#"{"token":"{}"}"#, None);
    let tries = Arc::new(AtomicUsize::new(0));
    for bad in ["503", "text", "empty", "header"] {
        tries.store(0, Ordering::SeqCst);
        let (own, list) = (Arc::clone(&tries), Arc::clone(&good.good));
        let tokens = Server::start(move |_| match (own.fetch_add(1, Ordering::SeqCst), bad) {
            (0, "503") => Reply::status(503),
            (0, "text") => Reply::status(200).body("<html>"),
            (0, "empty") => Reply::status(200).body(r#"{"token":"","access_token":null}"#),
            (0, _) => Reply::status(200).body(r#"{"token":"a\nb"}"#),
            _ => {
                list.lock()
                    .unwrap()
                    .push(("again".into(), Instant::now() + MINUTE));
                Reply::status(200).body(r#"{"token":"again"}"#)
            }
        });
        let (is_good, data) = (good.checker(), data());
        let challenge = format!("Bearer realm=\"{}\"", tokens.url("/t"));
        let registry = Server::start(move |request| match is_good(request) {
            true => Reply::of(&data, request),
            false => Reply::challenge(challenge.clone()),
        });
        check(&Client::new().blob(&registry), 0, 10);
        assert_eq!(tries.load(Ordering::SeqCst), 2, "{bad}");
    }
}

#[test]
fn a_scope_that_is_not_said_is_the_repositorys() {
    let tokens = Tokens::start(MINUTE, r#"{"token":"{}"}"#, None);
    let (is_good, realm, data) = (tokens.checker(), tokens.server.url("/t"), data());
    let registry = Server::start(move |request| match is_good(request) {
        true => Reply::of(&data, request),
        false => Reply::challenge(format!("bearer realm={realm}")),
    });
    check(&Client::new().blob(&registry), 0, 10);
    let asked = tokens.server.requests();
    assert_eq!(asked[0].target, "/t?scope=repository%3Ateam%2Fapp%3Apull");
}

#[test]
fn credentials_are_not_sent_in_plain_text_to_another_host() {
    let tokens = Tokens::start(MINUTE, r#"{"token":"{}"}"#, None);
    let realm = tokens.server.url("/t").replace("127.0.0.1", "localhost");
    let registry = Server::start(move |_| Reply::challenge(format!("Bearer realm=\"{realm}\"")));
    let client = Client::with_password(&registry.host(), "me", "s3cret");
    let error = fetch(&client.blob(&registry), 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::Unauthorized);
    assert!(
        error.to_string().contains("credentials are not sent"),
        "{error}"
    );
    assert_eq!(tokens.server.requests().len(), 0);
}

fn basic_registry(password: &'static str, status: u16) -> Server {
    let data = data();
    let wanted = format!("Basic {}", STANDARD.encode(password));
    Server::start(move |request| match request.header("authorization") {
        Some(header) if header == wanted => Reply::of(&data, request),
        _ => Reply::status(status).header("WWW-Authenticate", "Basic realm=\"r\""),
    })
}

#[test]
fn a_password_is_sent_when_it_is_asked_for() {
    for status in [401, 403] {
        let registry = basic_registry("me:s3:cret", status);
        let client = Client::with_password(&registry.host(), "me", "s3:cret");
        let blob = client.blob(&registry);
        check(&blob, 0, 10);
        check(&blob, 10, 20);
        assert_eq!(registry.requests().len(), 3);
        assert_eq!(count(&client.metrics.registry_tokens), 0);
    }
}

#[test]
fn a_password_that_is_refused_is_not_sent_again_in_the_same_read() {
    let registry = basic_registry("me:s3cret", 401);
    let mut client = Client::with_password(&registry.host(), "me", "wr0ng");
    let blob = client.blob(&registry);
    let error = fetch(&blob, 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::Unauthorized);
    assert!(
        error.to_string().contains("check credentials for"),
        "{error}"
    );
    assert!(registry.requests().len() <= 3);
    client.set_password(&registry.host(), "me", "s3cret");
    check(&blob, 0, 10);
}

#[test]
fn a_password_that_is_asked_for_and_missing_is_named() {
    let registry = basic_registry("me:s3cret", 401);
    let error = fetch(&Client::new().blob(&registry), 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::Unauthorized);
    let text = error.to_string();
    assert!(text.contains("wants a user name and password"), "{text}");
    assert!(text.contains("names no source"), "{text}");
}

#[test]
fn one_registrys_token_is_not_sent_to_another_that_asks_alike() {
    let tokens = Tokens::start(MINUTE, r#"{"token":"{}"}"#, None);
    let registry = tokens.registry();
    let client = Client::with_password(&registry.host(), "me", "s3cret");
    let shared = client.start().unwrap();
    let blob = shared
        .blob(&registry.url(REPOSITORY), DIGEST, None)
        .unwrap();
    check(&blob, 0, 10);
    let thief = tokens.registry();
    let stolen = shared.blob(&thief.url(REPOSITORY), DIGEST, None).unwrap();
    check(&stolen, 0, 10);
    let first = registry.requests().pop().unwrap();
    let sent = thief.requests();
    let owned = first.header("authorization");
    assert!(
        owned.is_some()
            && sent
                .iter()
                .all(|request| request.header("authorization") != owned)
    );
    let asked = tokens.server.requests();
    assert!(asked[0].header("authorization").is_some());
    assert_eq!(
        asked[1].header("authorization"),
        None,
        "no credentials of the other"
    );
}

#[test]
fn a_challenge_for_something_else_is_reported() {
    let registry = Server::start(|_| Reply::challenge("Negotiate"));
    let error = fetch_within(&Client::new().blob(&registry), 0, 10, 5).unwrap_err();
    assert_eq!(remote(&error), Remote::Unauthorized, "{error}");
    assert_eq!(registry.requests().len(), 1);
}
