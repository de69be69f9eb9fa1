//! The part of a URL that anybody may read. User names, passwords, signed queries, and paths of
//! foreign servers, which may be keys, are not.
//!
//! registry -> **redact** -> errors, log, audit, Debug

use url::Url;

/// `host` or `host:port`.
pub(super) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_host_and_port_are_shown() {
        let url = Url::parse("https://user:secret@h.example:81/a/b?sig=secret#secret").unwrap();
        assert_eq!(place(&url), "h.example:81");
        let url = Url::parse("http://[::1]:5/x").unwrap();
        assert_eq!(place(&url), "[::1]:5");
    }
}
