//! Data requests through the accelerator, and without it when it fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use layers::Remote;
use layers::range_source::RangeSource;

use crate::auth::Tokens;
use crate::server::{End, Reply, Server};
use crate::support::{
    Client, DIGEST, REPOSITORY, SIZE, check, data, fetch, open_registry, remote, soon,
};

fn through(accelerator: &Server) -> Client {
    let mut client = Client::new();
    client.config.p2p.enable = true;
    client.config.p2p.address = accelerator.url("/accelerator");
    client
}

#[test]
fn data_goes_through_it_and_the_way_is_asked_at_the_registry() {
    let storage = open_registry();
    let to = storage.url("/blob?sig=x");
    let registry = Server::start(move |_| Reply::redirect(to.clone()));
    let accelerator = open_registry();
    let blob = through(&accelerator).blob(&registry);
    assert_eq!(blob.size(soon(10)).unwrap(), SIZE as u64);
    check(&blob, 0, 100);
    check(&blob, 100, 200);
    assert_eq!(registry.requests().len(), 1);
    assert_eq!(registry.requests()[0].range(), Some((0, 0)));
    assert_eq!(storage.requests().len(), 1);
    let expected = format!("/accelerator/{}", storage.url("/blob?sig=x"));
    let asked = accelerator.requests();
    assert!(
        asked.iter().all(|request| request.target == expected),
        "{asked:?}"
    );
    assert_eq!(asked.last().unwrap().range(), Some((100, 199)));
}

#[test]
fn what_the_registry_has_itself_is_asked_for_with_the_token() {
    let tokens = Tokens::start(Duration::from_secs(60), r#"{"token":"{}"}"#, None);
    let registry = tokens.registry();
    let (is_good, data) = (tokens.checker(), data());
    let accelerator = Server::start(move |request| match is_good(request) {
        true => Reply::of(&data, request),
        false => Reply::status(401),
    });
    let blob = through(&accelerator).blob(&registry);
    check(&blob, 0, 100);
    check(&blob, 100, 200);
    assert_eq!(registry.requests().len(), 2);
    let expected = format!("/accelerator/{}/{DIGEST}", registry.url(REPOSITORY));
    assert_eq!(accelerator.requests()[0].target, expected);
    assert_eq!(accelerator.requests().len(), 2);
}

#[test]
fn it_is_left_alone_for_a_while_when_it_fails_and_used_again_when_it_works() {
    let registry = open_registry();
    let works = Arc::new(AtomicBool::new(false));
    let (own, data) = (Arc::clone(&works), data());
    let accelerator = Server::start(move |request| match own.load(Ordering::SeqCst) {
        true => Reply::of(&data, request),
        false => Reply::status(502),
    });
    let mut client = through(&accelerator);
    client.timing.accelerator_pause = Duration::from_secs(2);
    let blob = client.blob(&registry);
    for start in 0..5 {
        check(&blob, start, start + 10);
    }
    assert_eq!(
        accelerator.requests().len(),
        1,
        "no read waits for it again"
    );
    works.store(true, Ordering::SeqCst);
    let end = soon(20);
    while accelerator.requests().len() < 3 {
        assert!(std::time::Instant::now() < end, "never used again");
        check(&blob, 0, 10);
    }
    let before = registry.requests().len();
    check(&blob, 0, 10);
    assert_eq!(registry.requests().len(), before);
}

#[test]
fn whatever_it_does_the_bytes_come_from_the_origin_then() {
    for what in 0..8 {
        let registry = open_registry();
        let data = data();
        let accelerator = Server::start(move |request| {
            let reply = Reply::of(&data, request);
            match what {
                0 => Reply::status(500),
                1 => Reply::status(429),
                2 => Reply::status(404),
                3 => Reply::status(206)
                    .header("Content-Range", "bytes 7-8/9")
                    .body("xx"),
                4 => reply.end(End::Silence),
                5 => reply.end(End::Stall(50)),
                6 => reply.end(End::Cut(50)),
                _ => Reply::redirect("/elsewhere"),
            }
        });
        let mut client = through(&accelerator);
        client.timing.accelerator_silence = Duration::from_millis(300);
        check(&client.blob(&registry), 100, 1000);
        assert!(!accelerator.requests().is_empty());
    }
}

#[test]
fn one_that_is_not_there_costs_nothing_but_a_try() {
    let registry = open_registry();
    let accelerator = open_registry();
    let client = through(&accelerator);
    drop(accelerator);
    check(&client.blob(&registry), 0, 100);
}

#[test]
fn a_url_that_is_used_up_is_asked_for_again() {
    let serial = Arc::new(AtomicUsize::new(0));
    let storage = open_registry();
    let to = storage.url("/blob");
    let registry = Server::start(move |_| {
        let sig = serial.fetch_add(1, Ordering::SeqCst);
        Reply::redirect(format!("{to}?sig={sig}"))
    });
    let data = data();
    let accelerator = Server::start(move |request| match request.target.ends_with("sig=0") {
        true if request.number > 0 => Reply::status(403),
        _ => Reply::of(&data, request),
    });
    let blob = through(&accelerator).blob(&registry);
    for start in 0..4 {
        check(&blob, start, start + 10);
    }
    assert_eq!(registry.requests().len(), 2);
    assert_eq!(accelerator.requests().len(), 5);
}

#[test]
fn what_the_registry_refuses_is_not_the_accelerators_fault() {
    let registry = Server::start(|_| Reply::status(404));
    let accelerator = open_registry();
    let error = fetch(&through(&accelerator).blob(&registry), 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::NotFound);
    assert_eq!(accelerator.requests().len(), 0);
    assert_eq!(registry.requests().len(), 1);
}

#[test]
fn an_address_that_is_no_url_is_refused_at_the_start() {
    for address in ["", "localhost:1", "http://", "http://h/?x"] {
        let mut client = Client::new();
        client.config.p2p.address = address.to_owned();
        client.start().unwrap();
        client.config.p2p.enable = true;
        let error = client.start().unwrap_err();
        assert!(error.to_string().contains("p2pConfig.address"), "{error}");
    }
}
