//! Certificates: the registry's and the client's.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use layers::config::{CredentialServer, CredentialSource};
use layers::{ErrorKind, Remote};
use rcgen::{BasicConstraints, CertificateParams, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use crate::server::{Reply, Server};
use crate::support::{Client, check, data, fetch, fetch_within, remote};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
}

struct Identity {
    cert: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self {
            pem: cert.pem(),
            der: cert.der().clone(),
            issuer: Issuer::new(params, key),
        }
    }

    fn issue(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity { cert, key }
    }

    /// A server's settings; it wants certificates of `clients`, if there are any.
    fn server(&self, name: &str, clients: Option<&Self>) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(clients.der.clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let own = self.issue(name);
        let key = PrivateKeyDer::try_from(own.key.serialize_der()).unwrap();
        let chain = vec![own.cert.der().clone()];
        Arc::new(builder.with_single_cert(chain, key).unwrap())
    }
}

fn registry(tls: Arc<rustls::ServerConfig>) -> Server {
    let data = data();
    Server::start_with(Some(tls), move |request| Reply::of(&data, request))
}

#[test]
fn a_private_authority_is_trusted_when_it_is_named() {
    let authority = Authority::new();
    let registry = registry(authority.server("127.0.0.1", None));
    let mut client = Client::new();
    client.config.cert.ca_file = client.file("ca.pem", &authority.pem);
    let blob = client.blob(&registry);
    check(&blob, 0, 100_000);
    check(&blob, 5, 10);
    assert!(
        registry
            .requests()
            .iter()
            .all(|request| request.connection == 0)
    );
}

#[test]
fn an_unknown_authority_is_refused_at_once_unless_anything_is_trusted() {
    let authority = Authority::new();
    let registry = registry(authority.server("127.0.0.1", None));
    let mut client = Client::new();
    for _ in 0..2 {
        let error = fetch(&client.blob(&registry), 0, 10).unwrap_err();
        assert_eq!(remote(&error), Remote::Tls, "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        let other = Authority::new();
        client.config.cert.ca_file = client.file("ca.pem", &other.pem);
    }
    assert_eq!(registry.requests().len(), 0);
    client.config.cert.insecure_skip_verify = true;
    check(&client.blob(&registry), 0, 10);
}

#[test]
fn a_certificate_for_another_host_is_refused() {
    let authority = Authority::new();
    let registry = registry(authority.server("other.example", None));
    let mut client = Client::new();
    client.config.cert.ca_file = client.file("ca.pem", &authority.pem);
    let error = fetch(&client.blob(&registry), 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::Tls, "{error}");
}

#[test]
fn a_plain_server_where_tls_was_expected_is_a_tls_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/v2/a/blobs", listener.local_addr().unwrap());
    let plain = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0; 64]).unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
        // Until the client has seen enough.
        drop(std::io::copy(&mut stream, &mut std::io::sink()));
    });
    let registry = Client::new().start().unwrap();
    let blob = registry.blob(&url, crate::support::DIGEST, None).unwrap();
    let error = fetch_within(&blob, 0, 10, 5).unwrap_err();
    assert_eq!(remote(&error), Remote::Tls, "{error}");
    plain.join().unwrap();
}

fn with_identity(authority: &Authority, identity: &Identity) -> Client {
    let mut client = Client::new();
    client.config.cert.ca_file = client.file("ca.pem", &authority.pem);
    client.config.cert.cert_file = client.file("cert.pem", &identity.cert.pem());
    client.config.cert.key_file = client.file("key.pem", &identity.key.serialize_pem());
    client
}

#[test]
fn a_client_certificate_is_shown_to_a_registry_that_wants_one() {
    let authority = Authority::new();
    let registry = registry(authority.server("127.0.0.1", Some(&authority)));
    let client = with_identity(&authority, &authority.issue("client"));
    check(&client.blob(&registry), 0, 10);
    let mut without = Client::new();
    without.config.cert.ca_file = without.file("ca.pem", &authority.pem);
    let error = fetch_within(&without.blob(&registry), 0, 10, 5).unwrap_err();
    assert_eq!(remote(&error), Remote::Tls, "{error}");
    let foreign = Authority::new();
    let wrong = with_identity(&authority, &foreign.issue("client"));
    let error = fetch_within(&wrong.blob(&registry), 0, 10, 5).unwrap_err();
    assert_eq!(remote(&error), Remote::Tls, "{error}");
}

#[test]
fn files_that_are_missing_or_wrong_are_named_at_the_start() {
    let authority = Authority::new();
    let identity = authority.issue("client");
    let missing = PathBuf::from("/no/such/file.pem");
    let start = |change: &dyn Fn(&mut Client)| {
        let mut client = with_identity(&authority, &identity);
        change(&mut client);
        client.start().unwrap_err()
    };
    for change in [
        &|client: &mut Client| client.config.cert.ca_file = missing.clone(),
        &|client: &mut Client| client.config.cert.cert_file = missing.clone(),
        &|client: &mut Client| client.config.cert.key_file = missing.clone(),
    ] as [&dyn Fn(&mut Client); 3]
    {
        let error = start(change);
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("/no/such/file.pem"), "{error}");
    }
    for change in [
        &|client: &mut Client| client.config.cert.ca_file = client.file("x.pem", "x"),
        &|client: &mut Client| client.config.cert.cert_file = client.file("x.pem", "x"),
        &|client: &mut Client| client.config.cert.key_file = client.file("x.pem", "x"),
    ] as [&dyn Fn(&mut Client); 3]
    {
        let error = start(change);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("x.pem"), "{error}");
    }
    for change in [
        &|client: &mut Client| client.config.cert.cert_file = PathBuf::new(),
        &|client: &mut Client| client.config.cert.key_file = PathBuf::new(),
    ] as [&dyn Fn(&mut Client); 2]
    {
        let mut client = with_identity(&authority, &identity);
        change(&mut client);
        // As the C++ daemon: no client certificate then.
        client.start().unwrap();
    }
}

#[test]
fn a_redirect_from_https_to_http_is_refused() {
    let authority = Authority::new();
    let plain = crate::support::open_registry();
    let to = plain.url("/blob?sig=s3cret");
    let registry = Server::start_with(Some(authority.server("127.0.0.1", None)), move |_| {
        Reply::redirect(to.clone())
    });
    let mut client = Client::new();
    client.config.cert.ca_file = client.file("ca.pem", &authority.pem);
    let error = fetch(&client.blob(&registry), 0, 10).unwrap_err();
    assert!(error.to_string().contains("from https to http"), "{error}");
    assert!(!error.to_string().contains("s3cret"), "{error}");
    assert_eq!(plain.requests().len(), 0);
}

#[test]
fn a_credential_server_is_trusted_by_its_own_authority_and_sees_the_clients_certificate() {
    let authority = Authority::new();
    let identity = authority.issue("client");
    let server = Server::start_with(
        Some(authority.server("127.0.0.1", Some(&authority))),
        |_| Reply::status(200).body(r#"{"success":true,"data":{"auths":{}}}"#),
    );
    let guarded = Server::start(|_| Reply::challenge("Basic realm=r"));
    let mut client = Client::new();
    client.config.credentials = CredentialSource::Server(CredentialServer {
        url: server.url("/auth"),
        https: true,
        timeout: Duration::from_secs(5),
        client_cert: client.file("cert.pem", &identity.cert.pem()),
        client_key: client.file("key.pem", &identity.key.serialize_pem()),
        server_ca: client.file("ca.pem", &authority.pem),
    });
    let error = fetch(&client.blob(&guarded), 0, 10).unwrap_err();
    assert!(error.to_string().contains("no credentials for"), "{error}");
    assert_eq!(server.requests().len(), 1);
    client.file("ca.pem", &Authority::new().pem);
    let error = fetch(&client.blob(&guarded), 0, 10).unwrap_err();
    assert_eq!(remote(&error), Remote::Unauthorized, "{error}");
    assert!(
        error.to_string().contains("TLS with credential server"),
        "{error}"
    );
    assert_eq!(server.requests().len(), 1);
}
