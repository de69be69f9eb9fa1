//! The one table of what went wrong: HTTP status or transport error -> kind and words.
//!
//! transport, answer, token -> **status** -> failure

use std::error::Error as StdError;
use std::io;

use reqwest::header::HeaderMap;
use reqwest::{Response, StatusCode};

use super::failure::Failure;
use super::retry;
use crate::error::Remote;

/// The kind of an answer that is not the wanted one.
pub(super) fn kind_of(status: StatusCode) -> Remote {
    match status.as_u16() {
        401 => Remote::Unauthorized,
        403 => Remote::Forbidden,
        404 | 410 => Remote::NotFound,
        408 => Remote::TimedOut,
        416 => Remote::RangeRefused,
        429 => Remote::Throttled,
        500..=599 => Remote::ServerFailed,
        _ => Remote::BadAnswer,
    }
}

/// Does the status say that a redirect target is used up, rather than that the blob is gone?
pub(super) fn is_used_up(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 404 | 410)
}

pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// `place` gave `response` instead of data.
pub(super) fn refused(place: &str, response: &Response) -> Failure {
    of_status(place, response.status(), response.headers())
}

fn of_status(place: &str, status: StatusCode, headers: &HeaderMap) -> Failure {
    let retry_after = match status.as_u16() {
        429 | 503 => retry::retry_after(headers),
        _ => None,
    };
    let wish = match retry_after {
        Some(time) => format!(", try again after {} s", time.as_secs()),
        None => String::new(),
    };
    Failure {
        retry_after,
        ..Failure::new(kind_of(status), format!("{place} answered {status}{wish}"))
    }
}

/// The request to `place` failed before or in the middle of its answer.
pub(super) fn of_transport(place: &str, error: &reqwest::Error) -> Failure {
    let (kind, what) = match transport_kind(error) {
        Remote::Tls => (Remote::Tls, "TLS with"),
        Remote::Dns => (Remote::Dns, "no address of"),
        Remote::TimedOut => (Remote::TimedOut, "no connection in time to"),
        Remote::BadAnswer => (Remote::BadAnswer, "broken HTTP from"),
        kind if error.is_connect() => (kind, "no connection to"),
        kind => (kind, "lost the connection to"),
    };
    Failure::new(kind, format!("{what} {place}: {}", innermost(error)))
}

fn transport_kind(error: &reqwest::Error) -> Remote {
    if chain(error).any(is_tls) {
        return Remote::Tls;
    }
    if error.is_dns() {
        return Remote::Dns;
    }
    if error.is_timeout() {
        return Remote::TimedOut;
    }
    // Neither a connection nor an operating system that said no: the bytes made no sense.
    let parse = chain(error).any(|cause| {
        cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
    });
    match parse {
        true => Remote::BadAnswer,
        false => Remote::Connection,
    }
}

/// The error and what caused it, outermost first; looks into [`io::Error`], which hides its own.
fn chain<'a>(error: &'a reqwest::Error) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let mut next: Option<&'a (dyn StdError + 'static)> = Some(error);
    std::iter::from_fn(move || {
        let cause = next?;
        let hidden = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match hidden {
            Some(hidden) => Some(hidden),
            None => cause.source(),
        };
        Some(cause)
    })
}

/// A record that was damaged on its way may be whole the next time; everything else stays.
fn is_tls(cause: &(dyn StdError + 'static)) -> bool {
    let tls = cause.downcast_ref::<rustls::Error>();
    tls.is_some_and(|tls| !matches!(tls, rustls::Error::DecryptError))
}

/// The outer errors name URLs and say little.
fn innermost(error: &reqwest::Error) -> String {
    match chain(error).skip(1).last() {
        Some(cause) => cause.to_string(),
        None => "request failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_kind() {
        let kind = |status| kind_of(StatusCode::from_u16(status).unwrap());
        assert_eq!(kind(401), Remote::Unauthorized);
        assert_eq!(kind(403), Remote::Forbidden);
        assert_eq!(kind(404), Remote::NotFound);
        assert_eq!(kind(410), Remote::NotFound);
        assert_eq!(kind(408), Remote::TimedOut);
        assert_eq!(kind(416), Remote::RangeRefused);
        assert_eq!(kind(429), Remote::Throttled);
        assert_eq!(kind(500), Remote::ServerFailed);
        assert_eq!(kind(504), Remote::ServerFailed);
        assert_eq!(kind(400), Remote::BadAnswer);
        assert_eq!(kind(304), Remote::BadAnswer);
    }
}
