//! User names and passwords: where they are kept and which one is meant.
//!
//! repository -> **credentials** -> file | credential server
//!
//! Nothing is kept: whoever changes the file or the server's answer is heard at the next need.
//!
//! Source: format reference 6.8.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use reqwest::header::HeaderValue;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::blob_url::RepositoryUrl;
use super::credential_server::Asker;
use super::failure::Failure;
use crate::config::{CredentialSource, LEGACY_CREDENTIALS};
use crate::error::{ErrorKind, Result};
use crate::limits::CONFIG_BYTES_MAX;

/// Written with padding, read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A user name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: Vec<u8>,
    password: Vec<u8>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

impl Credentials {
    /// The value of an `Authorization` header. `None` without a user name, which means anonymous.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        if self.user.is_empty() {
            return None;
        }
        let text = BASE64.encode([&self.user[..], b":", &self.password[..]].concat());
        let mut value = HeaderValue::try_from(format!("Basic {text}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// The `auths` of a Docker-like config, in the order of the document.
#[derive(Debug, Default)]
pub struct Auths(Vec<(String, Option<Credentials>)>);

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    auths: Auths,
}

impl Auths {
    /// Reads `{"auths": {...}}`. Entries that make no sense are passed over later.
    ///
    /// # Errors
    /// Where the text stops being JSON; shows nothing of it.
    pub fn parse(text: &[u8]) -> std::result::Result<Self, String> {
        let document: Document = serde_json::from_slice(text).map_err(|error| where_of(&error))?;
        Ok(document.auths)
    }

    /// The first usable entry whose name is one of `names`.
    #[must_use]
    pub fn find(self, names: &[String]) -> Option<Credentials> {
        let mut meant = self.0.into_iter().filter(|(name, _)| names.contains(name));
        meant.find_map(|(_, credentials)| credentials)
    }
}

/// The place of a fault. The parser's own words may repeat a password.
pub(super) fn where_of(error: &serde_json::Error) -> String {
    format!(
        "not the JSON that was expected, at line {} column {}",
        error.line(),
        error.column()
    )
}

/// A map that keeps its order, which decides.
impl<'de> Deserialize<'de> for Auths {
    fn deserialize<D: serde::Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Auths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of registries")
            }

            fn visit_unit<E>(self) -> std::result::Result<Auths, E> {
                Ok(Auths::default())
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Auths, A::Error> {
                let mut auths = Vec::new();
                while let Some((name, entry)) = map.next_entry::<String, serde_json::Value>()? {
                    auths.push((name, credentials_of(&entry)));
                }
                Ok(Auths(auths))
            }
        }
        deserializer.deserialize_any(InOrder)
    }
}

/// `auth` wins over `username` and `password`.
fn credentials_of(entry: &serde_json::Value) -> Option<Credentials> {
    let text = |key| entry.get(key).and_then(serde_json::Value::as_str);
    if let Some(auth) = text("auth").filter(|auth| !auth.is_empty()) {
        let decoded = BASE64.decode(auth.trim()).ok()?;
        let colon = decoded.iter().position(|byte| *byte == b':')?;
        let (user, password) = decoded.split_at_checked(colon)?;
        return Some(Credentials {
            user: user.to_vec(),
            password: password.get(1..)?.to_vec(),
        });
    }
    Some(Credentials {
        user: text("username")?.as_bytes().to_vec(),
        password: text("password")?.as_bytes().to_vec(),
    })
}

/// What became of a search for credentials.
#[derive(Debug)]
pub(super) enum Found {
    Credentials(Credentials),
    /// Nobody keeps any for this repository.
    None,
    /// Whoever keeps them could not be asked. Go on without, and give this as the reason when that is refused.
    Unavailable(Failure),
}

/// Asks the source of the config, each time anew.
pub(super) struct Store {
    source: CredentialSource,
    asker: Option<Asker>,
    /// Did the last search fail? So that each trouble is logged once.
    troubled: AtomicBool,
}

/// The source may be a URL that holds a password.
impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.place())
    }
}

impl Store {
    /// # Errors
    /// Those of certificates that cannot be used.
    pub(super) fn new(source: &CredentialSource, user_agent: &str) -> Result<Self> {
        Ok(Self {
            asker: Asker::new(source, user_agent)?,
            source: source.clone(),
            troubled: AtomicBool::new(false),
        })
    }

    /// Where an operator would add credentials.
    pub(super) fn place(&self) -> String {
        match &self.source {
            CredentialSource::None => "credentialConfig, which names no source".to_owned(),
            CredentialSource::File(path) => path.display().to_string(),
            CredentialSource::Server(_) | CredentialSource::Socket { .. } => {
                "the credential server".to_owned()
            }
        }
    }

    /// The credentials for a blob of `repository`.
    pub(super) async fn find(&self, repository: &RepositoryUrl, blob: &str) -> Found {
        let auths = match (&self.source, &self.asker) {
            (CredentialSource::None, _) => Ok(Auths::default()),
            (CredentialSource::File(path), _) => read_file(path).await,
            (_, Some(asker)) => asker.ask(blob).await,
            (_, None) => Ok(Auths::default()),
        };
        match auths {
            Ok(auths) => {
                self.troubled.store(false, Ordering::Relaxed);
                match auths.find(&repository.credential_names()) {
                    Some(credentials) => Found::Credentials(credentials),
                    None => Found::None,
                }
            }
            Err(failure) => {
                if !self.troubled.swap(true, Ordering::Relaxed) {
                    let words = &failure.words;
                    log::warn!("registries are asked without credentials: {words}");
                }
                Found::Unavailable(failure)
            }
        }
    }
}

/// The standard file may be missing; another one was named on purpose.
async fn read_file(path: &Path) -> std::result::Result<Auths, Failure> {
    let owned = path.to_owned();
    // A disk may be slow, and everybody else's requests run on this thread.
    let read = tokio::task::spawn_blocking(move || read_bounded(&owned)).await;
    let text = match read {
        Ok(Ok(text)) => text,
        Ok(Err(error))
            if error.kind() == std::io::ErrorKind::NotFound
                && path == Path::new(LEGACY_CREDENTIALS) =>
        {
            return Ok(Auths::default());
        }
        Ok(Err(error)) => return Err(unreadable(path, &error.to_string())),
        Err(_) => return Err(unreadable(path, "the read was given up")),
    };
    Auths::parse(&text).map_err(|words| unreadable(path, &words))
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut text)?;
    match text.len() as u64 > CONFIG_BYTES_MAX {
        true => Err(std::io::Error::other("too large for a file of credentials")),
        false => Ok(text),
    }
}

fn unreadable(path: &Path, words: &str) -> Failure {
    Failure {
        kind: ErrorKind::Config,
        words: format!("cannot read credentials from {}: {words}", path.display()),
        retry_after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(text: &str, url: &str) -> Option<(String, String)> {
        let names = RepositoryUrl::parse(url).unwrap().credential_names();
        let found = Auths::parse(text.as_bytes()).unwrap().find(&names)?;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Some((text(found.user), text(found.password)))
    }

    const URL: &str = "https://h:5/v2/ns/repo/blobs";

    #[test]
    fn the_first_name_in_the_document_wins_not_the_longest() {
        let text = r#"{"auths":{"x":{"username":"x","password":"x"},
            "h:5/ns":{"username":"a","password":"1"},"h:5":{"username":"b","password":"2"},
            "h:5/ns/repo":{"username":"c","password":"3"}}}"#;
        assert_eq!(find(text, URL), Some(("a".into(), "1".into())));
    }

    #[test]
    fn names_match_as_a_whole_and_in_no_other_spelling() {
        for name in [
            "h",
            "h:5/",
            "https://h:5",
            "h:5/n",
            "h:5/ns/repo/blobs",
            "H:5",
        ] {
            let text = format!(r#"{{"auths":{{"{name}":{{"username":"a","password":"1"}}}}}}"#);
            assert_eq!(find(&text, URL), None, "{name}");
        }
    }

    #[test]
    fn auth_is_split_at_its_first_colon_and_wins() {
        let text = format!(
            r#"{{"auths":{{"h:5":{{"auth":"{}","username":"x","password":"y"}}}}}}"#,
            BASE64.encode("u:p:w")
        );
        assert_eq!(find(&text, URL), Some(("u".into(), "p:w".into())));
        let unpadded = r#"{"auths":{"h:5":{"auth":"dTpw"}}}"#;
        assert_eq!(find(unpadded, URL), Some(("u".into(), "p".into())));
    }

    #[test]
    fn entries_that_make_no_sense_are_passed_over() {
        let text = r#"{"auths":{"h:5":{"auth":"!"},"h:5/ns":{"username":"a"},"h:5/ns/repo":3,
            "h:5":{"auth":"bm9jb2xvbg=="},"h:5":{"username":"z","password":""}},"other":[]}"#;
        assert_eq!(find(text, URL), Some(("z".into(), String::new())));
    }

    #[test]
    fn what_is_no_document_of_auths_is_refused_without_repeating_it() {
        for text in [
            "",
            "{\"auths\":\"s3cret\"}",
            "{\"auths\":{\"s3cret\":}}",
            "{\"auths\":[]}",
        ] {
            let words = Auths::parse(text.as_bytes()).unwrap_err();
            assert!(!words.contains("s3cret"), "{words}");
        }
        assert!(Auths::parse(b"{}").unwrap().0.is_empty());
        assert!(Auths::parse(b"{\"auths\":null}").unwrap().0.is_empty());
    }

    #[test]
    fn an_empty_user_name_is_nobodys() {
        let credentials = Credentials {
            user: Vec::new(),
            password: b"x".to_vec(),
        };
        assert_eq!(credentials.basic(), None);
    }

    #[test]
    fn nothing_shows_a_password() {
        let credentials = Credentials {
            user: b"u".to_vec(),
            password: b"s3cret".to_vec(),
        };
        let header = credentials.basic().unwrap();
        let shown = format!("{credentials:?} {header:?}");
        assert!(!shown.contains("s3cret") && !shown.contains(&BASE64.encode("u:s3cret")));
        assert_eq!(header.to_str().unwrap(), "Basic dTpzM2NyZXQ=");
    }
}
