//! How long to wait before asking again.
//!
//! transfer -> **retry**

use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::timing::Timing;

/// No server is obeyed for longer; after that it is asked again.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Waits of random length whose upper bound doubles ("full jitter"), so that the clients of a
/// server that failed do not come back all at once.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    bound: Duration,
}

impl Backoff {
    pub(super) fn new(timing: &Timing) -> Self {
        Self {
            first: timing.backoff_first,
            max: timing.backoff_max,
            bound: timing.backoff_first,
        }
    }

    /// Something arrived: the next failure is a new one.
    pub(super) fn reset(&mut self) {
        self.bound = self.first;
    }

    pub(super) fn next_wait(&mut self) -> Duration {
        let bound = self.bound.min(self.max);
        self.bound = bound.saturating_mul(2);
        bound.mul_f64(fastrand::f64())
    }
}

/// How long the server wants to be left alone: seconds or a date; 300 s at most.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(SystemTime::now())
            .unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    #[test]
    fn waits_stay_below_a_bound_that_doubles_up_to_the_most() {
        let mut backoff = Backoff::new(&Timing::default());
        for round in 0..40 {
            let bound = Duration::from_millis(50 << round.min(12)).min(Duration::from_secs(2));
            assert!(backoff.next_wait() <= bound, "round {round}");
        }
        assert_eq!(backoff.bound, Duration::from_secs(4));
        backoff.reset();
        assert!(backoff.next_wait() <= Duration::from_millis(50));
    }

    #[test]
    fn waits_differ() {
        let waits: std::collections::HashSet<_> = (0..20)
            .map(|_| Backoff::new(&Timing::default()).next_wait())
            .collect();
        assert!(waits.len() > 10);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let parse = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            retry_after(&headers)
        };
        assert_eq!(parse("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse("99999999999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(parse("soon"), None);
        assert_eq!(parse("-1"), None);
        let later = SystemTime::now() + Duration::from_secs(20);
        let wait = parse(&httpdate::fmt_http_date(later)).unwrap();
        assert!((18..=20).contains(&wait.as_secs()), "{wait:?}");
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
    }
}
