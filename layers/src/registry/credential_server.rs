//! A server that knows user names and passwords.
//!
//! credentials -> **credential server** (http, https with client certificate, Unix socket)
//!
//! Never asked through a proxy: what it says is for this host alone.
//!
//! Source: format reference 6.8.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use reqwest::Client;
use serde::Deserialize;
use url::Url;

use super::credentials::{Auths, where_of};
use super::failure::{Attempt, Failure};
use super::redact;
use super::tls;
use super::transport::Transport;
use crate::config::{CredentialServer, CredentialSource};
use crate::error::{Error, ErrorKind, Remote, Result};
use crate::limits::CONFIG_BYTES_MAX;

const OP: &str = "use credential server";
const TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Asks one server.
pub(super) struct Asker {
    transport: Transport,
    url: Url,
    timeout: Duration,
}

/// The URL may hold a password.
impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asker({})", redact::place(&self.url))
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    success: bool,
    #[serde(default)]
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    #[serde(default)]
    auths: Auths,
}

impl Asker {
    /// `None` when the source is no server.
    ///
    /// # Errors
    /// `Config`, `NotFound`, `Io` for addresses and certificates that cannot be used.
    pub(super) fn new(source: &CredentialSource, user_agent: &str) -> Result<Option<Self>> {
        let (url, timeout) = match source {
            CredentialSource::None | CredentialSource::File(_) => return Ok(None),
            CredentialSource::Server(server) => (server_url(server)?, server.timeout),
            CredentialSource::Socket { timeout, .. } => (parse("http://localhost/auth")?, *timeout),
        };
        let timeout = timeout.max(TIMEOUT_MIN);
        let client = tls::build(OP, || {
            let builder = Client::builder()
                .user_agent(user_agent)
                .no_proxy()
                .http1_only()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(timeout);
            match source {
                CredentialSource::Server(server) if server.https => secured(builder, server),
                CredentialSource::Socket { path, .. } => Ok(builder.unix_socket(path.as_path())),
                _ => Ok(builder),
            }
        })?;
        Ok(Some(Self {
            transport: Transport::new(client, timeout),
            url,
            timeout,
        }))
    }

    /// What the server keeps for this blob.
    pub(super) async fn ask(&self, blob: &str) -> Attempt<Auths> {
        let place = format!("credential server {}", redact::place(&self.url));
        match tokio::time::timeout(self.timeout, self.exchange(blob, &place)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::new(
                Remote::TimedOut,
                format!("{place}: no answer within {} s", self.timeout.as_secs()),
            )),
        }
    }

    async fn exchange(&self, blob: &str, place: &str) -> Attempt<Auths> {
        let url = with_blob(&self.url, blob);
        let response = self.transport.get(place, &url, None, None).await?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(super::status::refused(place, &response));
        }
        let text = self
            .transport
            .read_all(place, response, CONFIG_BYTES_MAX)
            .await?;
        let answer: Answer = serde_json::from_slice(&text).map_err(|error| {
            Failure::new(Remote::BadAnswer, format!("{place}: {}", where_of(&error)))
        })?;
        let data = answer.data.filter(|_| answer.success);
        Ok(data.map(|data| data.auths).unwrap_or_default())
    }
}

/// The server's URL with the blob's in its query. Slashes and colons stay as they are, which is
/// what servers made for the C++ daemon see; only what would end the value is escaped.
fn with_blob(server: &Url, blob: &str) -> Url {
    let escaped: String = blob
        .chars()
        .map(|char| match char {
            '%' => "%25".to_owned(),
            '&' => "%26".to_owned(),
            '+' => "%2B".to_owned(),
            '#' => "%23".to_owned(),
            other => other.to_string(),
        })
        .collect();
    let own = server.query().map(|query| format!("{query}&"));
    let mut url = server.clone();
    url.set_query(Some(&format!(
        "{}remote_url={escaped}",
        own.unwrap_or_default()
    )));
    url
}

fn server_url(server: &CredentialServer) -> Result<Url> {
    let scheme = if server.https { "https" } else { "http" };
    let url = match server.url.contains("://") {
        true => parse(&server.url)?,
        false => parse(&format!("{scheme}://{}", server.url))?,
    };
    if server.https && url.scheme() == "http" {
        let detail = "credentialConfig.mode is https, but its path begins with http://";
        return Err(Error::new(ErrorKind::Config, OP, detail));
    }
    match matches!(url.scheme(), "http" | "https") && url.has_host() {
        true => Ok(url),
        false => Err(not_a_url()),
    }
}

fn parse(text: &str) -> Result<Url> {
    Url::parse(text).map_err(|_| not_a_url())
}

fn not_a_url() -> Error {
    let detail = "credentialConfig.path is not an http or https URL";
    Error::new(ErrorKind::Config, OP, detail)
}

fn secured(
    builder: reqwest::ClientBuilder,
    server: &CredentialServer,
) -> Result<reqwest::ClientBuilder> {
    let mut builder = builder;
    let given = |path: &Path| !path.as_os_str().is_empty();
    if given(&server.client_cert) || given(&server.client_key) {
        let identity = tls::identity(&server.client_cert, &server.client_key)?;
        builder = builder.identity(identity);
    }
    if given(&server.server_ca) {
        builder = builder.tls_certs_only(tls::certificates(&server.server_ca)?);
    }
    Ok(builder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str, https: bool) -> CredentialServer {
        CredentialServer {
            url: url.to_owned(),
            https,
            timeout: Duration::from_secs(1),
            client_cert: "".into(),
            client_key: "".into(),
            server_ca: "".into(),
        }
    }

    #[test]
    fn the_scheme_may_be_missing() {
        let url = |text, https| server_url(&server(text, https)).unwrap().to_string();
        assert_eq!(url("h:80/auth", false), "http://h/auth");
        assert_eq!(url("h:5/auth", true), "https://h:5/auth");
        assert_eq!(url("https://h/a", true), "https://h/a");
        assert!(server_url(&server("ftp://h", true)).is_err());
        assert!(server_url(&server("", false)).is_err());
    }

    #[test]
    fn the_blobs_url_is_readable_and_stays_one_value() {
        let base = Url::parse("http://h/auth?x=1").unwrap();
        let url = with_blob(&base, "https://r/v2/a+b&c/blobs/sha256:0");
        assert_eq!(
            url.query().unwrap(),
            "x=1&remote_url=https://r/v2/a%2Bb%26c/blobs/sha256:0"
        );
        let value = url.query_pairs().last().unwrap().1.into_owned();
        assert_eq!(value, "https://r/v2/a+b&c/blobs/sha256:0");
    }
}
