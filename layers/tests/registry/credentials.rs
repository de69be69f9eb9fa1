//! Credential files and servers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use layers::Remote;
use layers::config::{CredentialServer, CredentialSource};

use crate::server::{End, Reply, Server};
use crate::support::{Client, DIGEST, REPOSITORY, check, data, fetch, fetch_within, remote};

fn guarded() -> Server {
    let data = data();
    let wanted = format!("Basic {}", STANDARD.encode("me:s3cret"));
    Server::start(move |request| match request.header("authorization") {
        Some(header) if header == wanted => Reply::of(&data, request),
        _ => Reply::challenge("Basic realm=\"r\""),
    })
}

fn auths(host: &str) -> String {
    let auth = STANDARD.encode("me:s3cret");
    format!(
        r#"{{"traceId":"t","success":true,"data":{{"auths":{{"{host}/team/app":{{"auth":"{auth}"}}}}}}}}"#
    )
}

fn asking(url: String) -> Client {
    let mut client = Client::new();
    client.config.credentials = CredentialSource::Server(CredentialServer {
        url,
        https: false,
        timeout: Duration::from_secs(5),
        client_cert: "".into(),
        client_key: "".into(),
        server_ca: "".into(),
    });
    client
}

#[test]
fn a_server_is_asked_with_the_blobs_url() {
    let registry = guarded();
    let answer = auths(&registry.host());
    let server = Server::start(move |_| Reply::status(200).body(answer.clone()));
    let client = asking(format!("{}/auth", server.host()));
    check(&client.blob(&registry), 0, 10);
    let blob = format!("{}/{DIGEST}", registry.url(REPOSITORY));
    assert_eq!(
        server.requests()[0].target,
        format!("/auth?remote_url={blob}")
    );
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_server_without_success_means_nobodys_name() {
    for answer in [
        r#"{"success":false,"data":null}"#,
        r#"{"success":true,"data":{}}"#,
    ] {
        let registry = guarded();
        let server = Server::start(move |_| Reply::status(200).body(answer));
        let client = asking(server.url("/auth"));
        let error = fetch(&client.blob(&registry), 0, 10).unwrap_err();
        assert_eq!(remote(&error), Remote::Unauthorized);
        assert!(error.to_string().contains("no credentials for"), "{error}");
    }
}

#[test]
fn a_server_that_is_down_for_a_moment_fails_no_read() {
    let registry = guarded();
    let answer = auths(&registry.host());
    let server = Server::start(move |request| match request.number {
        0 => Reply::status(503),
        1 => Reply::status(200).body("<html>"),
        2 => Reply::status(200).body("{").end(End::Cut(0)),
        _ => Reply::status(200).body(answer.clone()),
    });
    check(&asking(server.url("/auth")).blob(&registry), 0, 10);
    assert_eq!(server.requests().len(), 4);
}

#[test]
fn a_server_that_is_down_does_not_matter_where_anybody_may_read() {
    let registry = crate::support::open_registry();
    let client = asking("127.0.0.1:1/auth".to_owned());
    check(&client.blob(&registry), 0, 10);
}

#[test]
fn a_server_that_stays_down_is_the_reason_that_is_given() {
    let registry = guarded();
    let client = asking("127.0.0.1:1/auth".to_owned());
    let error = fetch_within(&client.blob(&registry), 0, 10, 1).unwrap_err();
    assert_eq!(remote(&error), Remote::Connection);
    assert!(
        error.to_string().contains("credential server 127.0.0.1:1"),
        "{error}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_the_reason_that_is_given() {
    let registry = guarded();
    let mut client = Client::new();
    let path = client.credentials_file();
    client.config.credentials = CredentialSource::File(path.clone());
    let blob = client.blob(&registry);
    let error = fetch(&blob, 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::Unauthorized);
    let text = error.to_string();
    assert!(
        text.contains(&format!("cannot read credentials from {}", path.display())),
        "{text}"
    );
    std::fs::write(&path, "{\"auths\":{\"s3cret\":").unwrap();
    let error = fetch(&blob, 0, 10).unwrap_err();
    assert!(error.to_string().contains("line 1 column"), "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
    client.set_password(&registry.host(), "me", "s3cret");
    check(&blob, 0, 10);
}

#[test]
fn a_socket_is_asked_like_a_server() {
    let registry = guarded();
    let answer = auths(&registry.host());
    let mut client = Client::new();
    let path = client.credentials_file();
    let listener = UnixListener::bind(&path).unwrap();
    let asked = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut lines = BufReader::new(&stream).lines();
        let first = lines.next().unwrap().unwrap();
        while !lines.next().unwrap().unwrap().is_empty() {}
        let len = answer.len();
        write!(
            &stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n{answer}"
        )
        .unwrap();
        first
    });
    client.config.credentials = CredentialSource::Socket {
        path,
        timeout: Duration::from_secs(5),
    };
    check(&client.blob(&registry), 0, 10);
    let blob = format!("{}/{DIGEST}", registry.url(REPOSITORY));
    let expected = format!("GET /auth?remote_url={blob} HTTP/1.1");
    assert_eq!(asked.join().unwrap(), expected);
}
