//! Tokens of a token server.
//!
//! repository -> **token** -> transport
//!
//! Credentials go to an https token server, wherever the registry says it is: that is how
//! registries work. In plain text they go only where they would go anyway: to the host of a registry
//! that is itself used over plain http.
//!
//! Source: format reference 6.2.

use std::fmt;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use serde::Deserialize;
use url::Url;

use super::challenge::Challenge;
use super::failure::{Attempt, Failure};
use super::redact;
use super::status;
use super::transport::Transport;
use crate::error::{ErrorKind, Remote};

/// Tokens of real servers have up to some ten KiB.
const ANSWER_BYTES_MAX: u64 = 256 << 10;

/// When the server does not say it.
const LIFE_DEFAULT: Duration = Duration::from_secs(60);
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Whom to ask for which token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct TokenService {
    realm: Url,
    service: Option<String>,
    scope: String,
}

/// The realm is whatever a server has sent.
impl fmt::Debug for TokenService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenService({}, {})", self.place(), self.scope)
    }
}

/// A token in the form it is sent in.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    pub(super) asked_at: Instant,
    pub(super) life: Duration,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    /// Some servers write it as text.
    #[serde(default)]
    expires_in: serde_json::Value,
}

impl TokenService {
    /// `scope` counts when the challenge names none. `None` without a usable realm.
    pub(super) fn new(challenge: &Challenge, scope: String) -> Option<Self> {
        let realm = Url::parse(challenge.param("realm")?).ok()?;
        if !matches!(realm.scheme(), "http" | "https") || !realm.has_host() {
            return None;
        }
        let given = |name| challenge.param(name).map(str::to_owned);
        Some(Self {
            realm,
            service: given("service"),
            scope: given("scope").unwrap_or(scope),
        })
    }

    pub(super) fn place(&self) -> String {
        format!("token server {}", redact::place(&self.realm))
    }

    fn url(&self) -> Url {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &self.service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &self.scope);
        }
        url
    }

    /// May credentials for `registry` be sent?
    pub(super) fn is_trustworthy(&self, registry: &Url) -> bool {
        let same_host = self.realm.host_str() == registry.host_str();
        self.realm.scheme() == "https" || (registry.scheme() == "http" && same_host)
    }

    /// Asks for a token, with or without credentials.
    pub(super) async fn ask(
        &self,
        transport: &Transport,
        basic: Option<&HeaderValue>,
    ) -> Attempt<Token> {
        let place = self.place();
        let asked_at = Instant::now();
        let response = transport.get(&place, &self.url(), None, basic).await?;
        if response.status() != StatusCode::OK {
            return Err(status::refused(&place, &response));
        }
        let text = transport
            .read_all(&place, response, ANSWER_BYTES_MAX)
            .await?;
        let bad = |what: &str| Failure::new(Remote::BadAnswer, format!("{place}: {what}"));
        let answer: Answer =
            serde_json::from_slice(&text).map_err(|_| bad("the answer is not a token in JSON"))?;
        let life = answer.life();
        let token = answer
            .token
            .filter(|token| !token.is_empty())
            .or(answer.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| bad("the answer has no token"))?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| bad("the token has bytes that no token may have"))?;
        header.set_sensitive(true);
        Ok(Token {
            header,
            asked_at,
            life,
        })
    }
}

impl Answer {
    fn life(&self) -> Duration {
        let seconds = match &self.expires_in {
            serde_json::Value::String(text) => text.parse().ok(),
            other => other.as_u64(),
        };
        match seconds {
            Some(0) | None => LIFE_DEFAULT,
            Some(seconds) => Duration::from_secs(seconds).min(LIFE_MAX),
        }
    }
}

/// What to tell an operator whose credentials a server refused.
pub(super) fn refused_with(failure: Failure, advice: &str) -> Failure {
    match failure.kind {
        ErrorKind::Remote(Remote::Unauthorized | Remote::Forbidden) => Failure {
            words: format!("{}: {advice}", failure.words),
            ..failure
        },
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::challenge;

    fn service(header: &str) -> Option<TokenService> {
        TokenService::new(&challenge::parse(header)[0], "default".to_owned())
    }

    #[test]
    fn the_query_is_escaped_and_added_to_that_of_the_realm() {
        let found =
            service(r#"Bearer realm="https://a/t?x=1",service="s & t",scope="r:a/b:pull,push""#);
        assert_eq!(
            found.unwrap().url().as_str(),
            "https://a/t?x=1&service=s+%26+t&scope=r%3Aa%2Fb%3Apull%2Cpush"
        );
        let found = service(r#"Bearer realm="https://a/t""#);
        assert_eq!(found.unwrap().url().as_str(), "https://a/t?scope=default");
    }

    #[test]
    fn a_realm_that_is_no_url_is_not_asked() {
        for header in [
            "Bearer x=y",
            "Bearer realm=token",
            "Bearer realm=\"file:///etc/passwd\"",
        ] {
            assert_eq!(service(header), None);
        }
    }

    #[test]
    fn credentials_go_in_plain_text_only_to_the_host_of_a_plain_registry() {
        let trusted = |realm: &str, registry: &str| {
            let service = service(&format!("Bearer realm=\"{realm}\"")).unwrap();
            service.is_trustworthy(&Url::parse(registry).unwrap())
        };
        assert!(trusted("https://auth.other/t", "https://r/v2"));
        assert!(trusted("https://auth.other/t", "http://r/v2"));
        assert!(trusted("http://r:9/t", "http://r:5000/v2"));
        assert!(!trusted("http://r/t", "https://r/v2"));
        assert!(!trusted("http://other/t", "http://r/v2"));
    }

    #[test]
    fn the_life_of_a_token_is_what_is_said_or_a_minute() {
        let life = |text: &str| {
            let text = format!("{{\"expires_in\":{text}}}");
            serde_json::from_str::<Answer>(&text)
                .unwrap()
                .life()
                .as_secs()
        };
        assert_eq!(life("300"), 300);
        assert_eq!(life("\"2\""), 2);
        assert_eq!(life("0"), 60);
        assert_eq!(life("-5"), 60);
        assert_eq!(life("null"), 60);
        assert_eq!(life("1e30"), 60);
        assert_eq!(life("18446744073709551615"), 24 * 3600);
    }
}
