//! Where a blob really is: at the registry, or where that sent us.
//!
//! origin -> **route** -> (next request goes there at once)
//!
//! Source: format reference 6.2, 6.3.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use reqwest::header::{CACHE_CONTROL, DATE, HeaderMap, LOCATION};
use url::Url;

use super::failure::{Attempt, Failure};
use super::redact;
use crate::error::Remote;

/// A target without an expiry is forgotten when it was not used for so long.
const IDLE: Duration = Duration::from_secs(300);
/// No target is kept longer, whatever its expiry.
const LIFE_MAX: Duration = Duration::from_secs(24 * 3600);
const URL_BYTES_MAX: usize = 32 << 10;

/// The URL a registry sent us to.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) url: Url,
    /// Is it the registry itself, which wants to see who we are there, too?
    pub(super) at_registry: bool,
}

/// The URL is a key to the blob.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({})", redact::place(&self.url))
    }
}

/// How long a target may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// For this request.
    Once,
    /// As long as it is used.
    Idle,
    For(Duration),
}

impl Life {
    pub(super) fn shorter(self, other: Self) -> Self {
        match (self, other) {
            (Self::Once, _) | (_, Self::Once) => Self::Once,
            (Self::For(a), Self::For(b)) => Self::For(a.min(b)),
            (Self::For(life), Self::Idle) | (Self::Idle, Self::For(life)) => Self::For(life),
            (Self::Idle, Self::Idle) => Self::Idle,
        }
    }
}

#[derive(Debug, Default)]
enum Known {
    #[default]
    Nothing,
    AtRegistry,
    Target {
        target: Target,
        idle: bool,
        ends_at: Instant,
    },
}

/// What is known about one blob.
#[derive(Debug, Default)]
pub(super) struct Route {
    known: Mutex<Known>,
    /// Held by who finds out; the others would find out the same.
    pub(super) turn: tokio::sync::Mutex<()>,
}

/// Where the next request may go.
#[derive(Debug)]
pub(super) enum Way {
    Unknown,
    Registry,
    Target(Target),
}

impl Route {
    pub(super) fn way(&self) -> Way {
        let now = Instant::now();
        let mut known = self.known();
        match &mut *known {
            Known::Nothing => Way::Unknown,
            Known::AtRegistry => Way::Registry,
            Known::Target { ends_at, .. } if *ends_at <= now => {
                *known = Known::Nothing;
                Way::Unknown
            }
            Known::Target {
                target,
                idle,
                ends_at,
            } => {
                if *idle {
                    *ends_at = now + IDLE;
                }
                Way::Target(target.clone())
            }
        }
    }

    pub(super) fn forget(&self) {
        *self.known() = Known::Nothing;
    }

    /// The registry is asked each time: it has the blob itself, or wants it so.
    pub(super) fn keep_registry(&self) {
        *self.known() = Known::AtRegistry;
    }

    pub(super) fn keep_target(&self, target: Target, life: Life) {
        let (idle, life) = match life {
            // Each request has to find its own.
            Life::Once => return self.keep_registry(),
            Life::Idle => (true, IDLE),
            Life::For(life) => (false, life.min(LIFE_MAX)),
        };
        let ends_at = Instant::now() + life;
        *self.known() = Known::Target {
            target,
            idle,
            ends_at,
        };
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the answer to a request for `from` sends us.
pub(super) fn next_hop(from: &Url, headers: &HeaderMap) -> Attempt<Url> {
    let place = redact::place(from);
    let bad = |what: &str| Failure::new(Remote::BadAnswer, format!("redirect of {place} {what}"));
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let location = location.ok_or_else(|| bad("has no Location"))?;
    if location.len() > URL_BYTES_MAX {
        return Err(bad("has a Location longer than any URL"));
    }
    let next = from
        .join(location)
        .map_err(|_| bad("has a Location that is no URL"))?;
    match next.scheme() {
        "https" if next.has_host() => Ok(next),
        "http" if next.has_host() && from.scheme() == "http" => Ok(next),
        "http" => Err(Failure::new(
            Remote::Tls,
            format!("{place} redirects from https to http, which is refused"),
        )),
        _ => Err(bad("leads to neither http nor https")),
    }
}

/// May what was meant for `a` be sent to `b`?
pub(super) fn is_same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// How long the redirect to `target`, which came with `headers`, may be used again. A signed
/// URL tells itself; what the headers say about caching is for those that do not.
pub(super) fn life_of(target: &Url, headers: &HeaderMap) -> Life {
    if let Some(life) = signed_life(target, server_time(headers)) {
        // Clocks differ, and the request has yet to get there.
        let margin = (life / 10).min(Duration::from_secs(10));
        return match life > Duration::ZERO {
            true => Life::For(life.saturating_sub(margin)),
            false => Life::Once,
        };
    }
    let Some(control) = headers
        .get(CACHE_CONTROL)
        .and_then(|value| value.to_str().ok())
    else {
        return Life::Idle;
    };
    let mut life = Life::Idle;
    for directive in control.split(',') {
        let directive = directive.trim().to_ascii_lowercase();
        if matches!(directive.as_str(), "no-store" | "no-cache") {
            return Life::Once;
        }
        if let Some(seconds) = directive.strip_prefix("max-age=") {
            life = match seconds.trim_matches('"').parse() {
                Ok(0) => Life::Once,
                Ok(seconds) => Life::For(Duration::from_secs(seconds)),
                Err(_) => Life::Idle,
            };
        }
    }
    life
}

/// Seconds since 1970, by the clock of the server that signed.
fn server_time(headers: &HeaderMap) -> u64 {
    let date = headers.get(DATE).and_then(|value| value.to_str().ok());
    let time = date.and_then(|date| httpdate::parse_http_date(date).ok());
    let time = time.unwrap_or_else(SystemTime::now);
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// What is left of a signed URL, by the parameters of S3, GCS, OSS (`X-..-Date` and `X-..-Expires`),
/// CloudFront (`Expires`) and Azure (`se`).
fn signed_life(url: &Url, now: u64) -> Option<Duration> {
    let (mut signed_at, mut lasts, mut ends_at) = (None, None, None);
    for (name, value) in url.query_pairs() {
        let name = name.to_ascii_lowercase();
        match name.as_str() {
            "expires" => ends_at = value.parse::<u64>().ok(),
            "se" => ends_at = utc_seconds(&value),
            _ if name.starts_with("x-") && name.ends_with("-date") => {
                signed_at = utc_seconds(&value);
            }
            _ if name.starts_with("x-") && name.ends_with("-expires") => {
                lasts = value.parse::<u64>().ok();
            }
            _ => (),
        }
    }
    let ends_at = match (ends_at, lasts) {
        (Some(ends_at), _) => ends_at,
        (None, Some(lasts)) => signed_at.unwrap_or(now).saturating_add(lasts),
        (None, None) => return None,
    };
    Some(Duration::from_secs(ends_at.saturating_sub(now)))
}

/// `20261122T101921Z` or `2026-11-22T10:19:21Z`, the time of day in part or whole, as seconds since 1970.
fn utc_seconds(text: &str) -> Option<u64> {
    let digits: Vec<u64> = text
        .bytes()
        .filter(u8::is_ascii_digit)
        .map(|digit| u64::from(digit - b'0'))
        .take(14)
        .collect();
    let number = |from: usize, len: usize| {
        let digits = digits.iter().skip(from).take(len);
        digits.fold(0, |sum, digit| sum * 10 + digit)
    };
    let (year, month, day) = (number(0, 4), number(4, 2), number(6, 2));
    if digits.len() < 8 || year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1;
    let days = days.checked_sub(719_468)?;
    Some(days * 86_400 + number(8, 2) * 3600 + number(10, 2) * 60 + number(12, 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(HeaderName, &str)| {
            (name.clone(), HeaderValue::from_str(value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn dates_are_seconds() {
        assert_eq!(utc_seconds("19700101T000000Z"), Some(0));
        assert_eq!(utc_seconds("20000229T235959Z"), Some(951_868_799));
        assert_eq!(utc_seconds("2026-11-22T10:19:21Z"), Some(1_795_342_761));
        assert_eq!(utc_seconds("2026-11-22"), Some(1_795_305_600));
        for text in [
            "",
            "soon",
            "20261322",
            "19690101",
            "2026-00-01",
            "2026-01-00",
        ] {
            assert_eq!(utc_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_signed_url_is_kept_until_shortly_before_its_end() {
        let date = headers(&[(DATE, "Sun, 22 Nov 2026 10:19:21 GMT")]);
        let life = |query: &str| life_of(&url(&format!("https://s3/x?{query}")), &date);
        let seconds = |seconds| Life::For(Duration::from_secs(seconds));
        assert_eq!(
            life("X-Amz-Date=20261122T101821Z&X-Amz-Expires=160"),
            seconds(90)
        );
        assert_eq!(
            life("x-goog-expires=1000&x-goog-date=20261122T101921Z"),
            seconds(990)
        );
        assert_eq!(life("Expires=1795342861&Signature=x"), seconds(90));
        assert_eq!(life("se=2026-11-22T10%3A21%3A01Z&sig=x"), seconds(90));
        assert_eq!(
            life("X-Amz-Date=20261122T101721Z&X-Amz-Expires=60"),
            Life::Once
        );
        assert_eq!(life("verify=17-x"), Life::Idle);
    }

    #[test]
    fn a_redirect_without_signature_is_kept_as_its_headers_say() {
        let life = |text| life_of(&url("https://cdn/x"), &headers(&[(CACHE_CONTROL, text)]));
        assert_eq!(
            life("public, max-age=20"),
            Life::For(Duration::from_secs(20))
        );
        assert_eq!(life("max-age=0"), Life::Once);
        assert_eq!(life("private, No-Store"), Life::Once);
        assert_eq!(life("private"), Life::Idle);
        assert_eq!(
            life_of(&url("https://cdn/x"), &HeaderMap::new()),
            Life::Idle
        );
    }

    #[test]
    fn lives_beyond_all_bounds_are_cut() {
        let route = Route::default();
        let target = Target {
            url: url("https://h/"),
            at_registry: false,
        };
        let life = life_of(
            &url("https://h/?expires=18446744073709551615"),
            &HeaderMap::new(),
        );
        route.keep_target(target, life);
        assert!(matches!(route.way(), Way::Target(_)));
    }

    #[test]
    fn locations_are_resolved_and_never_lead_from_https_to_http() {
        let hop =
            |from: &str, location: &str| next_hop(&url(from), &headers(&[(LOCATION, location)]));
        assert_eq!(
            hop("http://r/v2/a", "/x?y").unwrap().as_str(),
            "http://r/x?y"
        );
        assert_eq!(hop("http://r/v2/a", "b").unwrap().as_str(), "http://r/v2/b");
        assert_eq!(
            hop("https://r/v2/a", "//cdn/b").unwrap().as_str(),
            "https://cdn/b"
        );
        assert_eq!(
            hop("http://r/v2/a", "https://cdn/b").unwrap().scheme(),
            "https"
        );
        assert!(hop("https://r/v2/a", "http://cdn/b").is_err());
        assert!(hop("https://r/v2/a", "file:///etc/passwd").is_err());
        assert!(hop("https://r/v2/a", &format!("/{}", "x".repeat(40_000))).is_err());
        assert!(next_hop(&url("http://r/"), &HeaderMap::new()).is_err());
    }

    #[test]
    fn another_scheme_host_or_port_is_another_origin() {
        let same = |a: &str, b: &str| is_same_origin(&url(a), &url(b));
        assert!(same("https://r/a", "https://r:443/b?c"));
        assert!(!same("https://r/a", "http://r/a"));
        assert!(!same("https://r/a", "https://r:444/a"));
        assert!(!same("https://r/a", "https://r.x/a"));
    }
}
