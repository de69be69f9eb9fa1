//! HTTP clients and their certificates.
//!
//! registry, credential server -> **tls** -> reqwest, rustls
//!
//! HTTP/1.1 only: each request in flight has a connection of its own, so that a stalled or slow one
//! holds up nobody else and can be given up alone.

use std::path::Path;
use std::time::Duration;

use reqwest::{Certificate, Client, ClientBuilder, Identity};

use super::timing::Timing;
use crate::config::{CertConfig, ServiceConfig};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::CONFIG_BYTES_MAX;

const OP: &str = "start registry client";
const IDLE: Duration = Duration::from_secs(60);
const IDLE_CONNECTIONS_PER_HOST_MAX: usize = 32;
const KEEPALIVE: Duration = Duration::from_secs(30);

/// The client for registries, token servers and redirect targets. Proxies come from the environment.
///
/// # Errors
/// `NotFound`, `Io`, `Config` for certificates that cannot be used.
pub(super) fn registry_client(config: &ServiceConfig, timing: &Timing) -> Result<Client> {
    build(OP, || {
        with_certificates(basic(config, timing), &config.cert)
    })
}

/// The client for the accelerator: near, so without proxy and certificates.
///
/// # Errors
/// `Config`.
pub(super) fn accelerator_client(config: &ServiceConfig, timing: &Timing) -> Result<Client> {
    build(OP, || Ok(basic(config, timing).no_proxy()))
}

fn basic(config: &ServiceConfig, timing: &Timing) -> ClientBuilder {
    Client::builder()
        .user_agent(&config.user_agent)
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(timing.connect)
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST_MAX)
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE)
        .tcp_user_timeout(timing.silence)
}

fn with_certificates(builder: ClientBuilder, cert: &CertConfig) -> Result<ClientBuilder> {
    let mut builder = builder;
    let given = |path: &Path| !path.as_os_str().is_empty();
    if given(&cert.ca_file) {
        builder = builder.tls_certs_merge(certificates(&cert.ca_file)?);
    }
    match (given(&cert.cert_file), given(&cert.key_file)) {
        (true, true) => builder = builder.identity(identity(&cert.cert_file, &cert.key_file)?),
        (false, false) => {}
        _ => log::warn!(
            "no client certificate is used: certConfig.certFile and keyFile count only together"
        ),
    }
    if cert.insecure_skip_verify {
        log::warn!("certConfig.insecureSkipVerify: any server is taken for the registry");
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    Ok(builder)
}

/// Builds the client. On a host without any CA certificate https will fail, and plain http work.
///
/// # Errors
/// Those of `make`; `Config`.
pub(super) fn build(op: &'static str, make: impl Fn() -> Result<ClientBuilder>) -> Result<Client> {
    let error = match make()?.build() {
        Ok(client) => return Ok(client),
        Err(error) => error,
    };
    let client = make()?.tls_certs_only([]).build();
    let client = client.map_err(|_| refused(op, &error))?;
    log::warn!("https servers cannot be trusted: {}", refused(op, &error));
    Ok(client)
}

fn refused(op: &'static str, error: &reqwest::Error) -> Error {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    Error::new(ErrorKind::Config, op, cause.to_string())
}

/// CA certificates in PEM.
///
/// # Errors
/// `NotFound`, `Io`, `Config`, with the path.
pub(super) fn certificates(path: &Path) -> Result<Vec<Certificate>> {
    let pem = read(path)?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(unusable(path, "no certificate in PEM")),
    }
}

/// A client certificate and its key, both in PEM.
///
/// # Errors
/// `NotFound`, `Io`, `Config`, with the path.
pub(super) fn identity(cert: &Path, key: &Path) -> Result<Identity> {
    if cert.as_os_str().is_empty() || key.as_os_str().is_empty() {
        let detail = "a client certificate and its key are needed both, or neither";
        return Err(Error::new(ErrorKind::Config, OP, detail));
    }
    let mut pem = read(cert)?;
    if !matches!(Certificate::from_pem_bundle(&pem), Ok(found) if !found.is_empty()) {
        return Err(unusable(cert, "no certificate in PEM"));
    }
    pem.push(b'\n');
    pem.extend(read(key)?);
    Identity::from_pem(&pem).map_err(|_| unusable(key, "no private key in PEM"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    use std::io::Read;
    let fail = |error| Error::io(OP, error).in_file(path.display().to_string());
    let mut pem = Vec::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(CONFIG_BYTES_MAX)
        .read_to_end(&mut pem)
        .map_err(fail)?;
    Ok(pem)
}

fn unusable(path: &Path, detail: &str) -> Error {
    Error::new(ErrorKind::Config, OP, detail).in_file(path.display().to_string())
}
