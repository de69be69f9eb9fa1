//! Only the bytes that were asked for arrive, whatever a server does.

use std::sync::atomic::{AtomicUsize, Ordering};

use layers::range_source::{RangeSource, Urgency};
use layers::{ErrorKind, Remote};

use crate::server::{End, Reply, Server};
use crate::support::{
    Client, SIZE, check, count, data, failing_first, fetch, fetch_within, open_registry, remote,
    soon,
};

#[test]
fn one_range_costs_one_request_and_connections_are_used_again() {
    let server = open_registry();
    let client = Client::new();
    let blob = client.blob(&server);
    for start in (0..250_000).step_by(50_000) {
        check(&blob, start, start + 50_000);
    }
    let requests = server.requests();
    assert_eq!(requests.len(), 5);
    assert!(requests.iter().all(|request| request.connection == 0));
    assert_eq!(requests[1].header("range"), Some("bytes=50000-99999"));
    assert_eq!(count(&client.metrics.registry_requests), 5);
    assert_eq!(count(&client.metrics.registry_bytes), 250_000);
    assert_eq!(count(&client.metrics.registry_retries), 0);
    assert_eq!(count(&client.metrics.registry_in_flight), 0);
}

#[test]
fn the_user_agent_is_the_configured_one_and_the_blob_is_asked_for_as_it_is() {
    let server = open_registry();
    let mut client = Client::new();
    client.config.user_agent = "obd-test/1".to_owned();
    check(&client.blob(&server), 0, 10);
    let requests = server.requests();
    assert_eq!(requests[0].header("user-agent"), Some("obd-test/1"));
    assert_eq!(requests[0].header("accept-encoding"), Some("identity"));
    assert_eq!(requests[0].header("authorization"), None);
}

#[test]
fn the_size_is_known_from_any_answer_or_asked_for_with_one_byte() {
    let server = open_registry();
    let client = Client::new();
    let blob = client.blob(&server);
    check(&blob, 5, 6);
    assert_eq!(blob.size(soon(10)).unwrap(), SIZE as u64);
    assert_eq!(server.requests().len(), 1);
    let blob = client.blob(&server);
    assert_eq!(blob.size(soon(10)).unwrap(), SIZE as u64);
    assert_eq!(server.requests()[1].header("range"), Some("bytes=0-0"));
    let blob = client.blob_of_size(&server, Some(7));
    assert_eq!(blob.size(soon(10)).unwrap(), 7);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn an_empty_blob_has_size_zero() {
    let server = Server::start(|request| Reply::of(&[], request));
    let blob = Client::new().blob(&server);
    assert_eq!(blob.size(soon(10)).unwrap(), 0);
    fetch(&blob, 0, 0).unwrap();
    assert_eq!(
        fetch(&blob, 0, 1).unwrap_err().kind(),
        ErrorKind::OutOfRange
    );
}

#[test]
fn a_range_beyond_the_end_is_out_of_range_whether_the_size_is_known_or_not() {
    let server = open_registry();
    let end = SIZE as u64;
    for known in [None, Some(end)] {
        for (start, end) in [(end - 1, end + 1), (end + 5, end + 9)] {
            let blob = Client::new().blob_of_size(&server, known);
            let error = fetch(&blob, start, end).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfRange, "{error}");
        }
    }
}

#[test]
fn a_server_that_refuses_a_range_of_a_blob_known_to_be_longer_is_believed_at_once() {
    let server = Server::start(|_| Reply::status(416));
    let blob = Client::new().blob_of_size(&server, Some(SIZE as u64));
    let error = fetch(&blob, 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::RangeRefused, "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_part_from_elsewhere_is_refused_and_asked_for_again() {
    for wrong in [
        "bytes 1-100/300000",
        "bytes 0-99/299999",
        "bytes 0-99",
        "bytes */300000",
        "nonsense",
        "",
    ] {
        let server = failing_first(2, move |_, _| {
            let reply = Reply::status(206).body(vec![1; 100]);
            match wrong {
                "" => reply,
                _ => reply.header("Content-Range", wrong),
            }
        });
        let client = Client::new();
        let blob = client.blob_of_size(&server, Some(SIZE as u64));
        check(&blob, 0, 100);
        assert_eq!(server.requests().len(), 3, "{wrong}");
        assert_eq!(count(&client.metrics.registry_retries), 2);
    }
}

#[test]
fn a_server_that_never_gets_it_right_is_named_in_the_error() {
    let server = Server::start(|_| {
        let reply = Reply::status(206).header("Content-Range", "bytes 4-7/8");
        reply.body("abcd")
    });
    let blob = Client::new().blob(&server);
    let error = fetch_within(&blob, 2, 6, 1).unwrap_err();
    assert_eq!(remote(&error), Remote::BadAnswer);
    let text = error.to_string();
    assert!(text.contains("sent bytes from 4, asked for 2"), "{text}");
    assert!(
        text.contains("gave up after") && text.contains("attempts"),
        "{text}"
    );
    assert!(
        text.contains(&server.host()) && text.contains("at byte 2"),
        "{text}"
    );
}

#[test]
fn a_whole_blob_instead_of_its_range_is_cut_when_it_is_not_far_and_refused_otherwise() {
    let data = std::sync::Arc::new(vec![9_u8; 3 << 20]);
    let whole = std::sync::Arc::clone(&data);
    let server = Server::start(move |_| Reply::status(200).body(&whole[..]));
    let blob = Client::new().blob(&server);
    assert_eq!(fetch(&blob, 0, 10).unwrap().len(), 10);
    assert_eq!(fetch(&blob, 1000, 2000).unwrap().len(), 1000);
    assert_eq!(fetch(&blob, 1 << 20, 3 << 20).unwrap().len(), 2 << 20);
    let error = fetch_within(&blob, 2 << 20, (2 << 20) + 5, 1).unwrap_err();
    assert_eq!(remote(&error), Remote::BadAnswer);
    assert!(error.to_string().contains("ignores Range"), "{error}");
}

#[test]
fn a_whole_blob_instead_of_its_range_gives_the_right_bytes() {
    let server = Server::start(|_| Reply::status(200).body(data()));
    let blob = Client::new().blob(&server);
    check(&blob, 12_345, 200_000);
    check(&blob, 0, SIZE as u64);
}

#[test]
fn more_bytes_than_were_asked_for_are_cut() {
    let server = Server::start(|request| {
        let (first, _) = request.range().unwrap();
        Reply::status(206)
            .header(
                "Content-Range",
                format!("bytes {first}-{}/{SIZE}", SIZE - 1),
            )
            .body(&data()[first..])
    });
    let blob = Client::new().blob(&server);
    check(&blob, 100, 200);
    check(&blob, 0, 1);
}

#[test]
fn a_server_that_sends_less_than_was_asked_for_is_asked_for_the_rest() {
    let server = Server::start(|request| {
        let (first, last) = request.range().unwrap();
        let last = last.min(first + 29_999);
        Reply::status(206)
            .header("Content-Range", format!("bytes {first}-{last}/{SIZE}"))
            .body(&data()[first..=last])
    });
    let client = Client::new();
    check(&client.blob(&server), 0, 100_000);
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn a_broken_body_is_resumed_where_it_stopped() {
    for end in [End::Cut(60_000), End::Reset(60_000)] {
        let server = failing_first(3, move |_, reply| reply.end(end));
        let client = Client::new();
        let blob = client.blob(&server);
        check(&blob, 0, SIZE as u64);
        let starts: Vec<usize> = server
            .requests()
            .iter()
            .map(|request| request.range().unwrap().0)
            .collect();
        assert_eq!(starts.len(), 4, "{end:?}");
        assert!(starts.is_sorted() && starts[3] > 0, "{starts:?}");
        if matches!(end, End::Cut(_)) {
            assert_eq!(starts, [0, 60_000, 120_000, 180_000]);
        }
        assert_eq!(count(&client.metrics.registry_bytes), SIZE as u64);
    }
}

#[test]
fn an_encoded_blob_is_refused() {
    let server = failing_first(1, |_, reply| reply.header("Content-Encoding", "gzip"));
    check(&Client::new().blob(&server), 0, 50);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn an_error_of_the_sink_ends_the_fetch_and_is_what_it_returns() {
    let server = open_registry();
    let client = Client::new();
    let blob = client.blob(&server);
    let pieces = AtomicUsize::new(0);
    let error = blob
        .fetch(0..SIZE as u64, Urgency::Guest, soon(10), &mut |_| {
            pieces.fetch_add(1, Ordering::Relaxed);
            Err(layers::Error::new(ErrorKind::NoSpace, "keep", "full"))
        })
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(pieces.load(Ordering::Relaxed), 1);
    check(&blob, 0, 10);
}

#[test]
fn many_threads_get_the_right_bytes() {
    let server = failing_first(usize::MAX, |request, reply| match request.number % 7 {
        3 => reply.end(End::Cut(1000)),
        5 => Reply::status(503),
        _ => reply,
    });
    let client = Client::new();
    let blob = client.blob(&server);
    std::thread::scope(|scope| {
        for thread in 0..16_u64 {
            let blob = &blob;
            scope.spawn(move || {
                for turn in 0..10 {
                    let start = thread * 15_000 + turn * 1000;
                    check(blob, start, start + 5000);
                }
            });
        }
    });
    assert!(count(&client.metrics.registry_retries) > 0);
    assert_eq!(count(&client.metrics.registry_in_flight), 0);
}
