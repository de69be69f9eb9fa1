//! Registries that send the client elsewhere.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use layers::Remote;

use crate::auth::Tokens;
use crate::server::{Reply, Request, Server};
use crate::support::{Client, REPOSITORY, check, count, data, fetch, fetch_within, remote};

fn storage() -> Server {
    let data = data();
    Server::start(move |request| Reply::of(&data, request))
}

fn redirecting(to: String) -> Server {
    Server::start(move |_| Reply::redirect(to.clone()))
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

#[test]
fn every_redirect_is_followed_once_and_remembered() {
    for status in [301, 302, 303, 307, 308] {
        let storage = storage();
        let to = storage.url("/blob?sig=x");
        let registry = Server::start(move |_| Reply::status(status).header("Location", &*to));
        let client = Client::new();
        let blob = client.blob(&registry);
        for start in 0..5 {
            check(&blob, start * 10, start * 10 + 10);
        }
        assert_eq!(registry.requests().len(), 1, "{status}");
        assert_eq!(storage.requests().len(), 5);
        assert_eq!(storage.requests()[0].target, "/blob?sig=x");
        assert_eq!(count(&client.metrics.registry_requests), 6);
    }
}

#[test]
fn many_first_reads_ask_the_way_once() {
    let storage = storage();
    let registry = redirecting(storage.url("/blob"));
    let blob = Client::new().blob(&registry);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| check(&blob, 0, 1000));
        }
    });
    assert_eq!(registry.requests().len(), 1);
}

#[test]
fn a_relative_location_is_resolved() {
    let data = data();
    let registry = Server::start(move |request| match request.target.as_str() {
        "/storage/x" => Reply::of(&data, request),
        _ => Reply::redirect("/storage/x"),
    });
    let blob = Client::new().blob(&registry);
    check(&blob, 0, 10);
    check(&blob, 10, 20);
    assert_eq!(registry.requests().len(), 3);
}

#[test]
fn a_token_is_never_sent_to_where_a_registry_sends_us_but_to_itself() {
    let tokens = Tokens::start(Duration::from_secs(60), r#"{"token":"{}"}"#, None);
    let storage = storage();
    let (is_good, challenge) = (tokens.checker(), tokens.challenge());
    let away = storage.url("/blob");
    let registry = Server::start(move |request| {
        match (is_good(request), request.target.starts_with(REPOSITORY)) {
            (false, _) => Reply::challenge(challenge.clone()),
            (true, true) => Reply::redirect("/inside"),
            (true, false) => Reply::redirect(away.clone()),
        }
    });
    let blob = Client::new().blob(&registry);
    for start in 0..3 {
        check(&blob, start, start + 10);
    }
    assert_eq!(storage.requests().len(), 3);
    let leaks = storage.count(|request| request.header("authorization").is_some());
    assert_eq!(leaks, 0);
}

#[test]
fn a_target_at_the_registry_itself_gets_the_token() {
    let tokens = Tokens::start(Duration::from_secs(60), r#"{"token":"{}"}"#, None);
    let (is_good, challenge, data) = (tokens.checker(), tokens.challenge(), data());
    let registry = Server::start(move |request| {
        match (is_good(request), request.target.starts_with(REPOSITORY)) {
            (false, _) => Reply::challenge(challenge.clone()),
            (true, true) => Reply::redirect("/inside"),
            (true, false) => Reply::of(&data, request),
        }
    });
    let blob = Client::new().blob(&registry);
    check(&blob, 0, 10);
    check(&blob, 10, 20);
    assert_eq!(registry.requests().len(), 4);
}

/// Storage whose URLs are good for so many requests.
fn signing(good_for: usize, status: u16, expires: u64) -> (Server, Server) {
    let serial = Arc::new(AtomicUsize::new(0));
    let used = Arc::new(Mutex::new((0, 0)));
    let data = data();
    let storage = Server::start(move |request: &Request| {
        let sig: usize = request.target.rsplit('=').next().unwrap().parse().unwrap();
        let mut used = used.lock().unwrap();
        match &mut *used {
            (known, times) if *known == sig => *times += 1,
            fresh => *fresh = (sig, 1),
        }
        match used.1 <= good_for {
            true => Reply::of(&data, request),
            false => Reply::status(status),
        }
    });
    let to = storage.url("/blob");
    let registry = Server::start(move |_| {
        let sig = serial.fetch_add(1, Ordering::SeqCst) + 1;
        Reply::redirect(format!("{to}?Expires={expires}&sig={sig}"))
    });
    (registry, storage)
}

#[test]
fn a_target_that_is_used_up_is_replaced_by_asking_the_registry_once() {
    for status in [401, 403, 404, 410] {
        let (registry, storage) = signing(2, status, now() + 1000);
        let client = Client::new();
        let blob = client.blob(&registry);
        for start in 0..6 {
            check(&blob, start * 10, start * 10 + 10);
        }
        assert_eq!(registry.requests().len(), 3, "{status}");
        assert_eq!(storage.requests().len(), 8);
        assert_eq!(count(&client.metrics.registry_retries), 0);
    }
}

#[test]
fn a_signed_url_is_not_used_beyond_its_expiry() {
    let (registry, storage) = signing(usize::MAX, 403, now().saturating_sub(1));
    let blob = Client::new().blob(&registry);
    for start in 0..3 {
        check(&blob, start * 10, start * 10 + 10);
    }
    assert_eq!(registry.requests().len(), 3);
    assert_eq!(storage.requests().len(), 3);
}

#[test]
fn a_target_that_refuses_at_once_is_named_without_its_signature() {
    let (registry, storage) = signing(0, 403, now() + 1000);
    let error = fetch(&Client::new().blob(&registry), 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::Forbidden);
    let text = error.to_string();
    assert!(
        text.contains(&storage.host()) && text.contains(&registry.host()),
        "{text}"
    );
    assert!(!text.contains("sig") && !text.contains("Expires"), "{text}");
    assert_eq!(registry.requests().len(), 1);
}

#[test]
fn a_target_that_is_gone_is_replaced_at_the_next_attempt() {
    let gone = storage();
    let first = gone.url("/blob");
    let second = storage();
    let then = second.url("/blob");
    let registry = Server::start(move |request| match request.number {
        0 => Reply::redirect(first.clone()),
        _ => Reply::redirect(then.clone()),
    });
    let blob = Client::new().blob(&registry);
    check(&blob, 0, 10);
    drop(gone);
    check(&blob, 10, 20);
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn redirects_without_end_are_given_up() {
    let registry = Server::start(|_| Reply::redirect("/again"));
    let error = fetch_within(&Client::new().blob(&registry), 0, 10, 1).unwrap_err();
    assert_eq!(remote(&error), Remote::BadAnswer);
    assert!(error.to_string().contains("without end"), "{error}");
    assert!(registry.requests().len() >= 9);
}

#[test]
fn a_redirect_to_nowhere_is_reported() {
    for to in ["", "file:///etc/passwd", "http://"] {
        let registry = Server::start(move |_| match to {
            "" => Reply::status(302),
            _ => Reply::redirect(to),
        });
        let error = fetch_within(&Client::new().blob(&registry), 0, 10, 1).unwrap_err();
        assert_eq!(remote(&error), Remote::BadAnswer, "{error}");
    }
}
