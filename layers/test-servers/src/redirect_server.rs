//! Blobs as cloud registries give them: the registry answers with a signed URL on another port, which
//! is good for some seconds.
//!
//! client -> **redirect server** -> registry
//!
//! Everything but a GET of a blob goes to the registry as it is.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Result;

use crate::http::{Head, write_answer};
use crate::listener::{Connection, Listener, locked};

/// How the signed URL says when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ExpiryStyle {
    /// `X-Amz-Date` and `X-Amz-Expires`.
    #[default]
    Amazon,
    /// `Expires=` in seconds since 1970.
    Unix,
    /// Not at all.
    Untold,
}

/// A running pair: the one that redirects, and the one it redirects to.
#[derive(Debug)]
pub struct RedirectServer {
    state: Arc<State>,
    // The front knows the target's address: it ends first.
    front: Listener,
    target: Listener,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RedirectCounts {
    /// Signed URLs that were given.
    pub redirects: u64,
    /// Requests that came to the target.
    pub target_requests: u64,
    /// Those that came too late, or with a signature that was never given.
    pub refused: u64,
    /// Those that brought an `Authorization` header along, which is not for the target.
    pub leaked_authorizations: u64,
}

#[derive(Debug)]
struct State {
    registry: SocketAddr,
    target: OnceLock<SocketAddr>,
    life: Mutex<Duration>,
    target_delay: Mutex<Duration>,
    style: ExpiryStyle,
    /// Signature -> path at the registry, `Authorization` for it, end.
    signed: Mutex<HashMap<String, Signed>>,
    counts: Mutex<RedirectCounts>,
}

#[derive(Debug, Clone)]
struct Signed {
    path: String,
    authorization: Option<String>,
    end: Instant,
}

impl RedirectServer {
    /// Starts in front of the registry at `registry`, with URLs that live so long.
    ///
    /// # Errors
    /// When it cannot listen.
    pub fn start(registry: SocketAddr, life: Duration, style: ExpiryStyle) -> Result<Self> {
        let state = Arc::new(State {
            registry,
            target: OnceLock::new(),
            life: Mutex::new(life),
            target_delay: Mutex::default(),
            style,
            signed: Mutex::default(),
            counts: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        let target = Listener::start(Arc::new(move |connection: &Connection| {
            drop(serve(connection, |request| {
                serve_target(&shared, request, connection)
            }));
        }))?;
        state.target.get_or_init(|| target.address());
        let shared = Arc::clone(&state);
        let front = Listener::start(Arc::new(move |connection: &Connection| {
            drop(serve(connection, |request| {
                serve_front(&shared, request, connection)
            }));
        }))?;
        Ok(Self {
            state,
            front,
            target,
        })
    }

    /// Where the one that redirects listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.front.address()
    }

    /// Where the other one listens.
    #[must_use]
    pub fn target_address(&self) -> SocketAddr {
        self.target.address()
    }

    /// The prefix of a repository's blobs, as `repoBlobUrl` wants it.
    #[must_use]
    pub fn repo_blob_url(&self, repo: &str) -> String {
        format!("http://{}/v2/{repo}/blobs", self.address())
    }

    /// URLs that are given from now on live so long.
    pub fn set_life(&self, life: Duration) {
        *locked(&self.state.life) = life;
    }

    /// The target waits so long before each answer.
    pub fn set_target_delay(&self, delay: Duration) {
        *locked(&self.state.target_delay) = delay;
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> RedirectCounts {
        *locked(&self.state.counts)
    }
}

fn serve(
    connection: &Connection,
    mut answer: impl FnMut(&Head) -> io::Result<()>,
) -> io::Result<()> {
    connection.stream.set_nodelay(true)?;
    let mut reader = BufReader::new(connection.stream.try_clone()?);
    while let Some(request) = Head::read(&mut reader)? {
        answer(&request)?;
    }
    Ok(())
}

fn serve_front(state: &State, request: &Head, connection: &Connection) -> io::Result<()> {
    let mut stream = &connection.stream;
    if request.method() != "GET" || !request.path().contains("/blobs/") {
        return pass_on(state, request.clone(), connection);
    }
    let url = state.sign(request);
    locked(&state.counts).redirects += 1;
    let head = Head::answer(307).with("Location", &url);
    write_answer(&mut stream, head, b"", request.method())
}

fn serve_target(state: &State, request: &Head, connection: &Connection) -> io::Result<()> {
    let mut stream = &connection.stream;
    let delay = *locked(&state.target_delay);
    connection.pause(delay);
    let signature = request.query("Signature").concat();
    let signed = locked(&state.signed).get(&signature).cloned();
    let good = signed.filter(|signed| Instant::now() < signed.end);
    {
        let mut counts = locked(&state.counts);
        counts.target_requests += 1;
        counts.refused += u64::from(good.is_none());
        counts.leaked_authorizations += u64::from(request.header("Authorization").is_some());
    }
    let Some(signed) = good else {
        let body =
            b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
        return write_answer(&mut stream, Head::answer(403), body, request.method());
    };
    let mut inner = request.clone();
    inner.first_line = format!("{} {} HTTP/1.1", request.method(), signed.path);
    inner.remove("Authorization");
    if let Some(authorization) = &signed.authorization {
        inner.set("Authorization", authorization);
    }
    pass_on(state, inner, connection)
}

fn pass_on(state: &State, mut request: Head, connection: &Connection) -> io::Result<()> {
    let mut stream = &connection.stream;
    let (mut registry, _kept) = connection.connect(state.registry)?;
    request.set("Connection", "close");
    request.write_to(&mut registry)?;
    let mut answer = BufReader::new(registry);
    let mut head = Head::read(&mut answer)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    head.remove("Connection");
    let len = match request.method() {
        "HEAD" => 0,
        _ => head.body_bytes().ok_or(io::ErrorKind::InvalidData)?,
    };
    head.write_to(&mut stream)?;
    io::copy(&mut answer.take(len), &mut stream).map(drop)
}

impl State {
    fn sign(&self, request: &Head) -> String {
        let life = *locked(&self.life);
        let mut signed = locked(&self.signed);
        let signature = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        let entry = Signed {
            path: request.path().to_owned(),
            authorization: request.header("Authorization").map(str::to_owned),
            end: Instant::now() + life,
        };
        signed.insert(signature.clone(), entry);
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let expiry = match self.style {
            ExpiryStyle::Amazon => {
                let date = amazon_date(now.as_secs());
                format!("X-Amz-Date={date}&X-Amz-Expires={}&", life.as_secs())
            }
            ExpiryStyle::Unix => format!("Expires={}&", (now + life).as_secs()),
            ExpiryStyle::Untold => String::new(),
        };
        let host = self.target.get().map(SocketAddr::to_string);
        let host = host.unwrap_or_default();
        format!("http://{host}/storage/blob?{expiry}Signature={signature}")
    }
}

/// `20261122T181530Z` of seconds since 1970.
fn amazon_date(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!(
        "{year:04}{month:02}{day:02}T{hour:02}{minute:02}{:02}Z",
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(amazon_date(0), "19700101T000000Z");
        assert_eq!(amazon_date(951_782_400), "20000229T000000Z");
        assert_eq!(amazon_date(1_795_371_330), "20261122T181530Z");
    }
}
