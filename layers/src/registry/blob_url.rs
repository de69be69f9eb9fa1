//! Where the blobs of a repository are.
//!
//! image -> **blob url** -> origin, credentials
//!
//! Invariant: an http or https URL without user name, password, query or fragment: it may be shown.
//!
//! Source: format reference 4.2 (`repoBlobUrl`), 6.8 (names under which credentials are kept).

use url::Url;

use super::redact;
use crate::error::{Error, ErrorKind, Result};

const OP: &str = "use repoBlobUrl";
const DIGEST_PREFIX: &str = "sha256:";
const DIGEST_HEX_CHARS: usize = 64;

/// `https://registry.example/v2/namespace/repository/blobs`, without a slash at the end.
#[derive(Debug, Clone)]
pub(super) struct RepositoryUrl {
    url: Url,
    /// Host and port as they were written: `Url` leaves standard ports out.
    authority: String,
}

impl RepositoryUrl {
    /// # Errors
    /// `Config`; never shows a URL that has secrets.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let refuse = |detail: String| Err(Error::new(ErrorKind::Config, OP, detail));
        let text = text.trim_end_matches('/');
        let Ok(url) = Url::parse(text) else {
            return refuse("not a URL; expected https://registry/v2/repository/blobs".to_owned());
        };
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return refuse(format!("scheme {:?}, expected http or https", url.scheme()));
        }
        let place = redact::place(&url);
        if !url.username().is_empty() || url.password().is_some() {
            return refuse(format!(
                "the URL of {place} has a user name; credentials belong into credentialConfig"
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refuse(format!("the URL of {place} has a query or a fragment"));
        }
        let (_, rest) = text.split_once("://").unwrap_or(("", text));
        let authority = rest.split('/').next().unwrap_or(rest).to_owned();
        Ok(Self { url, authority })
    }

    /// The URL of one blob.
    ///
    /// # Errors
    /// `Config` for a digest that is none.
    pub(super) fn blob(&self, digest: &str) -> Result<Url> {
        let hex = digest.strip_prefix(DIGEST_PREFIX).unwrap_or("");
        if hex.len() != DIGEST_HEX_CHARS || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let detail = format!("digest {digest:.100?}, expected sha256: and 64 hex digits");
            return Err(Error::new(ErrorKind::Config, "use layer digest", detail));
        }
        let text = format!("{}/{digest}", self.url.as_str().trim_end_matches('/'));
        Url::parse(&text)
            .map_err(|error| Error::new(ErrorKind::Config, OP, format!("{error} with the digest")))
    }

    pub(super) fn as_str(&self) -> &str {
        self.url.as_str()
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// Host and port, for messages.
    pub(super) fn place(&self) -> String {
        redact::place(&self.url)
    }

    /// The names under which credentials for this repository may stand: the host, then the host
    /// with one more part of the repository's name each.
    pub(super) fn credential_names(&self) -> Vec<String> {
        let mut names = Vec::new();
        let normal = self.place();
        let written = (self.authority != normal).then(|| self.authority.clone());
        for mut name in written.into_iter().chain([normal]) {
            names.push(name.clone());
            for part in self.repository_parts() {
                name = format!("{name}/{part}");
                names.push(name.clone());
            }
        }
        names
    }

    /// What a token must allow when the registry does not say it.
    pub(super) fn pull_scope(&self) -> String {
        let name: Vec<_> = self.repository_parts().collect();
        format!("repository:{}:pull", name.join("/"))
    }

    /// The path without its first part (`v2`) and its last (`blobs`).
    fn repository_parts(&self) -> impl Iterator<Item = &str> {
        let parts: Vec<&str> = self.url.path_segments().into_iter().flatten().collect();
        let count = parts.len().saturating_sub(2);
        parts.into_iter().skip(1).take(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF";

    #[test]
    fn the_digest_is_the_last_part() {
        for text in ["http://h:5000/v2/a/b/blobs", "http://h:5000/v2/a/b/blobs//"] {
            let url = RepositoryUrl::parse(text).unwrap().blob(DIGEST).unwrap();
            let expected = format!("http://h:5000/v2/a/b/blobs/{DIGEST}");
            assert_eq!(url.as_str(), expected);
        }
    }

    #[test]
    fn what_is_no_url_or_digest_is_refused_and_secrets_are_not_shown() {
        for text in [
            "",
            "registry/v2",
            "ftp://h/v2",
            "http://",
            "https://user:secret@h/v2",
            "https://secret@h/v2",
            "https://h/v2?sig=secret",
            "https://h/v2#secret",
            "https://user:secret@h:99999/v2",
        ] {
            let error = RepositoryUrl::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let url = RepositoryUrl::parse("https://h/v2/a/blobs").unwrap();
        for digest in [
            "",
            "sha256:",
            "sha256:zz",
            &DIGEST[..70],
            "../../x",
            &DIGEST[7..],
        ] {
            assert!(url.blob(digest).is_err(), "{digest}");
        }
    }

    #[test]
    fn credentials_stand_under_the_host_or_any_prefix_of_the_repository() {
        let names = |text| RepositoryUrl::parse(text).unwrap().credential_names();
        assert_eq!(
            names("https://h.example:5000/v2/ns/repo/blobs"),
            [
                "h.example:5000",
                "h.example:5000/ns",
                "h.example:5000/ns/repo"
            ]
        );
        assert_eq!(
            names("https://h.example:443/v2/r/blobs/"),
            [
                "h.example:443",
                "h.example:443/r",
                "h.example",
                "h.example/r"
            ]
        );
        assert_eq!(names("https://h.example"), ["h.example"]);
    }

    #[test]
    fn the_scope_names_the_repository() {
        let url = RepositoryUrl::parse("https://h/v2/ns/repo/blobs").unwrap();
        assert_eq!(url.pull_scope(), "repository:ns/repo:pull");
    }
}
