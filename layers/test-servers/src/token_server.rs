//! A token server: short-lived bearer tokens, signed so that docker-registry accepts them.
//!
//! client -> **token server**; proxy -> **token server** (is this token still good?)
//!
//! docker-registry itself grants expired tokens another minute; a [`Proxy`](crate::Proxy) with a gate
//! does not.
//!
//! Source: the token specification of docker/distribution 2.8 (`docs/spec/auth/{token,jwt}.md`).

use std::collections::HashMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, DnType, KeyPair, SigningKey};
use serde_json::json;
use tempfile::TempDir;

use crate::http::{Head, write_answer};
use crate::listener::{Connection, Listener, locked};

/// Who issues the tokens; a registry must be told so.
pub(crate) const ISSUER: &str = "obd test token server";
/// Whom the tokens are for.
pub(crate) const SERVICE: &str = "obd test registry";

/// How a token server behaves.
#[derive(Debug, Clone)]
pub struct TokenOptions {
    /// How long a token lives.
    pub life: Duration,
    /// `expires_in` of the answers; `None` = not told.
    pub told_life: Option<Duration>,
    /// Name and password that are asked for; `None` = anybody gets a token.
    pub login: Option<(String, String)>,
    /// Answer with this status instead of a token.
    pub failure: Option<u16>,
    /// Call the token `access_token` instead of `token`.
    pub access_token: bool,
}

impl Default for TokenOptions {
    fn default() -> Self {
        Self {
            life: Duration::from_secs(60),
            told_life: Some(Duration::from_secs(60)),
            login: None,
            failure: None,
            access_token: false,
        }
    }
}

impl TokenOptions {
    /// Tokens that live so long, and say so.
    #[must_use]
    pub fn life(seconds: u64) -> Self {
        let life = Duration::from_secs(seconds);
        Self {
            life,
            told_life: Some(life),
            ..Self::default()
        }
    }
}

/// A running token server.
#[derive(Debug)]
pub struct TokenServer {
    state: Arc<State>,
    listener: Listener,
}

/// One token request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    /// `service` of the query.
    pub service: String,
    /// The `scope`s of the query.
    pub scopes: Vec<String>,
    /// Name of the login, if there was one.
    pub user: Option<String>,
    /// Status of the answer.
    pub status: u16,
}

/// What the server and the gates of proxies share.
#[derive(Debug)]
pub(crate) struct State {
    options: Mutex<TokenOptions>,
    signer: Signer,
    good_until: Mutex<HashMap<String, Instant>>,
    requests: Mutex<Vec<TokenRequest>>,
}

#[derive(Debug)]
struct Signer {
    key: KeyPair,
    /// The certificate as the header of a token wants it.
    certificate: String,
    dir: TempDir,
}

impl TokenServer {
    /// Starts on a free port.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(options: TokenOptions) -> Result<Self> {
        let state = Arc::new(State {
            options: Mutex::new(options),
            signer: Signer::new()?,
            good_until: Mutex::default(),
            requests: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let handler = move |connection: &Connection| drop(serve(&shared, connection));
        Ok(Self {
            state,
            listener: Listener::start(Arc::new(handler))?,
        })
    }

    /// Where tokens are issued.
    #[must_use]
    pub fn realm(&self) -> String {
        format!("http://{}/token", self.listener.address())
    }

    /// The certificate that a registry must trust.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.state.signer.certificate_file()
    }

    /// Behaves so from now on.
    pub fn set_options(&self, options: TokenOptions) {
        *locked(&self.state.options) = options;
    }

    /// No token that was issued is good any more.
    pub fn revoke_all(&self) {
        locked(&self.state.good_until).clear();
    }

    /// What was asked for, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<TokenRequest> {
        locked(&self.state.requests).clone()
    }

    /// A token for `scope`, as a client that is allowed everything would get it; not counted.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn issue(&self, scope: &str) -> Result<String> {
        self.state.issue(&[scope.to_owned()])
    }

    /// Stops listening.
    pub fn stop(&self) {
        self.listener.stop();
    }

    /// Listens on the same port again.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start_again(&self) -> Result<()> {
        self.listener.start_again()
    }

    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// `WWW-Authenticate` of an answer that wants a token for `scope`.
    pub(crate) fn challenge(realm: &str, scope: &str) -> String {
        format!("Bearer realm=\"{realm}\",service=\"{SERVICE}\",scope=\"{scope}\"")
    }
}

impl State {
    /// Is this `Authorization` header one of ours, and not expired?
    pub(crate) fn accepts(&self, authorization: Option<&str>) -> bool {
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        let good_until = locked(&self.good_until);
        let end = token.and_then(|token| good_until.get(token));
        end.is_some_and(|end| Instant::now() < *end)
    }

    fn issue(&self, scopes: &[String]) -> Result<String> {
        let life = locked(&self.options).life;
        let number = locked(&self.good_until).len();
        let token = self.signer.sign(scopes, life, number)?;
        locked(&self.good_until).insert(token.clone(), Instant::now() + life);
        Ok(token)
    }

    fn answer(&self, request: &Head) -> Result<(Head, String, Option<String>)> {
        let options = locked(&self.options).clone();
        let login = request.header("Authorization").and_then(login_of);
        let user = login.as_ref().map(|(user, _)| user.clone());
        if let Some(status) = options.failure {
            return Ok((Head::answer(status), "{}".to_owned(), user));
        }
        if options.login.is_some() && options.login != login {
            let head =
                Head::answer(401).with("WWW-Authenticate", "Basic realm=\"obd test tokens\"");
            return Ok((head, r#"{"details":"wrong login"}"#.to_owned(), user));
        }
        let token = self.issue(&request.query("scope"))?;
        let name = if options.access_token {
            "access_token"
        } else {
            "token"
        };
        let mut body = json!({ name: token });
        if let (Some(body), Some(life)) = (body.as_object_mut(), options.told_life) {
            body.insert("expires_in".to_owned(), json!(life.as_secs()));
        }
        let head = Head::answer(200).with("Content-Type", "application/json");
        Ok((head, body.to_string(), user))
    }
}

fn serve(state: &State, connection: &Connection) -> Result<()> {
    let mut reader = BufReader::new(connection.stream.try_clone()?);
    while let Some(request) = Head::read(&mut reader)? {
        let (head, body, user) = state.answer(&request)?;
        locked(&state.requests).push(TokenRequest {
            service: request.query("service").concat(),
            scopes: request.query("scope"),
            user,
            status: head.status(),
        });
        let mut stream = &connection.stream;
        write_answer(&mut stream, head, body.as_bytes(), request.method())?;
    }
    Ok(())
}

/// Name and password of a Basic `Authorization` header.
fn login_of(authorization: &str) -> Option<(String, String)> {
    let encoded = authorization.strip_prefix("Basic ")?;
    let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

impl Signer {
    fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, ISSUER);
        let certificate = params.self_signed(&key)?;
        let dir = tempfile::Builder::new().prefix("obd-tokens.").tempdir()?;
        std::fs::write(certificate_in(dir.path()), certificate.pem())?;
        Ok(Self {
            key,
            certificate: BASE64_STANDARD.encode(certificate.der()),
            dir,
        })
    }

    fn certificate_file(&self) -> PathBuf {
        certificate_in(self.dir.path())
    }

    /// A JSON web token, signed with ES256.
    fn sign(&self, scopes: &[String], life: Duration, number: usize) -> Result<String> {
        let now = SystemTime::UNIX_EPOCH.elapsed()?;
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [self.certificate] });
        let access: Vec<_> = scopes.iter().filter_map(|scope| access_of(scope)).collect();
        let claims = json!({
            "iss": ISSUER, "sub": "", "aud": SERVICE, "jti": number.to_string(),
            "iat": now.as_secs(), "nbf": now.as_secs().saturating_sub(5),
            "exp": (now + life).as_secs(), "access": access,
        });
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!(
            "{}.{}",
            encode(header.to_string().as_bytes()),
            encode(claims.to_string().as_bytes())
        );
        let signature = raw_signature(&self.key.sign(signed.as_bytes())?)?;
        Ok(format!("{signed}.{}", encode(&signature)))
    }
}

fn certificate_in(dir: &Path) -> PathBuf {
    dir.join("tokens.pem")
}

/// `repository:NAME:pull,push` as a token grants it.
fn access_of(scope: &str) -> Option<serde_json::Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let actions: Vec<_> = actions.split(',').collect();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}

/// The two 32-byte numbers of a DER signature, as JWS wants them.
fn raw_signature(der: &[u8]) -> Result<Vec<u8>> {
    // SEQUENCE, its length; then twice: INTEGER, its length, its bytes.
    let mut rest = der.get(2..).context("a signature")?;
    let mut raw = Vec::with_capacity(64);
    for _ in 0..2 {
        let len = usize::from(*rest.get(1).context("an integer")?);
        let number = rest.get(2..2 + len).context("an integer's bytes")?;
        rest = rest.get(2 + len..).unwrap_or_default();
        // Positive numbers have a leading zero where their first bit is set; short ones are short.
        let digits = number.get(len.saturating_sub(32)..).unwrap_or_default();
        raw.resize(raw.len() + 32 - digits.len(), 0);
        raw.extend_from_slice(digits);
    }
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_becomes_two_numbers_of_32_bytes() {
        let mut der = vec![0x30, 0, 2, 33, 0];
        der.extend([0xff; 32]);
        der.extend([2, 31]);
        der.extend([1; 31]);
        let raw = raw_signature(&der).unwrap();
        assert_eq!(raw[..32], [0xff; 32]);
        assert_eq!(raw[32..], [[0].as_slice(), &[1; 31]].concat());
    }

    #[test]
    fn a_token_is_good_for_its_life_only_and_until_it_is_revoked() {
        let server = TokenServer::start(TokenOptions::life(3600)).unwrap();
        let token = server.issue("repository:a/b:pull").unwrap();
        let header = format!("Bearer {token}");
        let state = server.state();
        assert!(state.accepts(Some(&header)));
        assert!(!state.accepts(Some("Bearer x")));
        assert!(!state.accepts(None));
        server.revoke_all();
        assert!(!state.accepts(Some(&header)));
        server.set_options(TokenOptions::life(0));
        let header = format!("Bearer {}", server.issue("repository:a/b:pull").unwrap());
        assert!(!state.accepts(Some(&header)), "expired at once");
    }
}
