//! What fails is repeated until the deadline, or reported at once when that is no use.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use layers::Remote;
use layers::range_source::{RangeSource, Urgency};

use crate::server::{End, Reply, Server};
use crate::support::{
    Client, DIGEST, SIZE, check, count, failing_first, fetch, fetch_within, open_registry, remote,
    soon,
};

#[test]
fn a_final_refusal_is_reported_after_one_request() {
    for (status, kind) in [
        (403, Remote::Forbidden),
        (404, Remote::NotFound),
        (410, Remote::NotFound),
        (401, Remote::Unauthorized),
    ] {
        let server = Server::start(move |_| Reply::status(status));
        let error = fetch(&Client::new().blob(&server), 0, 10).unwrap_err();
        assert_eq!(remote(&error), kind, "{error}");
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        assert!(error.to_string().contains(DIGEST), "{error}");
        assert_eq!(server.requests().len(), 1, "{status}");
    }
}

#[test]
fn a_passing_refusal_is_repeated_until_the_deadline_and_then_reported() {
    for (status, kind) in [
        (408, Remote::TimedOut),
        (429, Remote::Throttled),
        (500, Remote::ServerFailed),
        (503, Remote::ServerFailed),
        (418, Remote::BadAnswer),
    ] {
        let server = Server::start(move |_| Reply::status(status));
        let blob = Client::new().blob(&server);
        let error = fetch_within(&blob, 0, 10, 1).unwrap_err();
        assert_eq!(remote(&error), kind, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&status.to_string()) && text.contains("gave up after"),
            "{text}"
        );
        assert!(server.requests().len() > 2, "{status}");
        let error = blob.size(soon(1)).unwrap_err();
        assert_eq!(remote(&error), kind, "{error}");
    }
}

#[test]
fn a_passing_refusal_that_passes_is_not_noticed() {
    for status in [408, 429, 500, 502, 503, 504] {
        let server = failing_first(4, move |_, _| Reply::status(status));
        let client = Client::new();
        check(&client.blob(&server), 0, 10);
        assert_eq!(server.requests().len(), 5);
        assert_eq!(count(&client.metrics.registry_retries), 4);
    }
}

#[test]
fn retry_after_in_seconds_is_waited_for() {
    for status in [429, 503] {
        let server = failing_first(1, move |_, _| {
            Reply::status(status).header("Retry-After", "1")
        });
        let began = Instant::now();
        check(&Client::new().blob(&server), 0, 10);
        assert!(began.elapsed() >= Duration::from_secs(1), "{status}");
    }
}

#[test]
fn retry_after_of_no_time_is_no_leave_to_ask_without_a_pause() {
    for wish in ["0", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        let server = Server::start(move |_| Reply::status(429).header("Retry-After", wish));
        let error = fetch_within(&Client::new().blob(&server), 0, 10, 1).unwrap_err();
        assert_eq!(remote(&error), Remote::Throttled);
        // Some 45 with pauses of 25 ms in the mean.
        let asked = server.requests().len();
        assert!((5..120).contains(&asked), "{asked} requests");
    }
}

#[test]
fn retry_after_as_a_date_is_waited_for() {
    let server = failing_first(1, move |_, _| {
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
        Reply::status(429).header("Retry-After", date)
    });
    let began = Instant::now();
    check(&Client::new().blob(&server), 0, 10);
    // Dates have no fractions of seconds.
    assert!(began.elapsed() >= Duration::from_millis(800));
}

#[test]
fn a_server_that_wants_to_be_left_alone_beyond_the_deadline_ends_the_wait_at_once() {
    let server = Server::start(|_| Reply::status(429).header("Retry-After", "3600"));
    let began = Instant::now();
    let error = fetch_within(&Client::new().blob(&server), 0, 10, 20).unwrap_err();
    assert_eq!(remote(&error), Remote::Throttled);
    assert!(
        error.to_string().contains("try again after 300 s"),
        "{error}"
    );
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_connection_that_falls_silent_is_given_up_and_the_rest_comes_over_another() {
    for end in [End::Stall(60_000), End::Silence] {
        let server = failing_first(1, move |_, reply| reply.end(end));
        let mut client = Client::new();
        client.timing.silence = Duration::from_secs(1);
        check(&client.blob(&server), 0, SIZE as u64);
        let requests = server.requests();
        assert_ne!(requests[0].connection, requests[1].connection);
        if let End::Stall(sent) = end {
            assert_eq!(requests[1].range().unwrap().0, sent);
        }
    }
}

#[test]
fn a_server_that_says_nothing_does_not_hold_a_caller_beyond_its_deadline() {
    let server = Server::start(|_| Reply::status(200).end(End::Silence));
    let blob = Client::new().blob(&server);
    let began = Instant::now();
    let error = fetch_within(&blob, 0, 10, 1).unwrap_err();
    assert_eq!(remote(&error), Remote::TimedOut, "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    let error = blob.size(soon(1)).unwrap_err();
    assert_eq!(remote(&error), Remote::TimedOut, "{error}");
}

#[test]
fn a_deadline_reports_the_last_real_error() {
    let server = failing_first(usize::MAX, |request, reply| match request.number {
        0 => Reply::status(502),
        _ => reply.end(End::Silence),
    });
    let error = fetch_within(&Client::new().blob(&server), 0, 10, 2).unwrap_err();
    assert_eq!(remote(&error), Remote::ServerFailed, "{error}");
    assert!(error.to_string().contains("502"), "{error}");
    assert!(error.to_string().contains("2 attempts"), "{error}");
}

#[test]
fn a_registry_that_is_not_there_is_a_failed_connection() {
    let server = open_registry();
    let url = server.url("/v2/x/blobs");
    drop(server);
    let blob = Client::new()
        .start()
        .unwrap()
        .blob(&url, DIGEST, None)
        .unwrap();
    let error = fetch_within(&blob, 0, 10, 1).unwrap_err();
    assert_eq!(remote(&error), Remote::Connection, "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn a_name_without_address_says_so() {
    let url = "http://no-such-registry.invalid/v2/x/blobs";
    let blob = Client::new()
        .start()
        .unwrap()
        .blob(url, DIGEST, None)
        .unwrap();
    let error = fetch_within(&blob, 0, 10, 3).unwrap_err();
    // Resolvers may also take too long.
    assert!(
        matches!(remote(&error), Remote::Dns | Remote::TimedOut),
        "{error}"
    );
    assert!(
        error.to_string().contains("no-such-registry.invalid"),
        "{error}"
    );
}

#[test]
fn a_guest_overtakes_the_background() {
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (now, seen) = (Arc::clone(&running), Arc::clone(&most));
    let server = failing_first(usize::MAX, move |request, reply| {
        if request.range() == Some((0, 0)) {
            return reply;
        }
        seen.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        reply.end(End::Silence)
    });
    let client = Client::new();
    let blob = client.blob(&server);
    assert_eq!(blob.size(soon(20)).unwrap(), SIZE as u64);
    std::thread::scope(|scope| {
        for _ in 0..24 {
            let blob = &blob;
            scope.spawn(move || {
                let sink = &mut |_: &[u8]| Ok(());
                drop(blob.fetch(10..20, Urgency::Background, soon(4), sink));
            });
        }
        let end = soon(20);
        while most.load(Ordering::SeqCst) < 16 {
            assert!(Instant::now() < end, "the background does not run");
            std::thread::yield_now();
        }
        assert_eq!(fetch(&blob, 0, 1).unwrap().len(), 1);
        assert_eq!(most.load(Ordering::SeqCst), 16);
    });
}

#[test]
fn a_fetch_that_nobody_waits_for_any_more_ends() {
    let server = failing_first(1, |_, reply| reply.end(End::Stall(50)));
    let client = Client::new();
    let blob = client.blob(&server);
    let full = |_: &[u8]| {
        Err(layers::Error::new(
            layers::ErrorKind::NoSpace,
            "keep",
            "full",
        ))
    };
    let sink = &mut { full };
    blob.fetch(0..100, Urgency::Guest, soon(25), sink)
        .unwrap_err();
    let end = soon(10);
    while count(&client.metrics.registry_in_flight) > 0 {
        assert!(Instant::now() < end, "still under way");
        std::thread::yield_now();
    }
}

#[test]
fn blobs_outlive_the_registry_they_came_from() {
    let server = open_registry();
    let client = Client::new();
    let registry = client.start().unwrap();
    let blob = registry
        .blob(&server.url("/v2/a/blobs"), DIGEST, None)
        .unwrap();
    drop(registry);
    check(&blob, 0, 10);
}

#[test]
fn what_is_no_blob_is_refused_before_anybody_is_asked() {
    let registry = Client::new().start().unwrap();
    for (url, digest) in [
        ("ftp://h/v2/a/blobs", DIGEST),
        ("http://u:s3cret@h/v2/a/blobs", DIGEST),
        ("http://h/v2/a/blobs", "sha256:1"),
        ("", DIGEST),
    ] {
        let error = registry.blob(url, digest, None).unwrap_err();
        assert_eq!(error.kind(), layers::ErrorKind::Config);
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}
