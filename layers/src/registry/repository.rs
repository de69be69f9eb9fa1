//! One repository: its URL and how to be let in.
//!
//! origin -> **repository** -> challenge, token, credentials
//!
//! Invariants: what was obtained for one repository is sent to that repository's registry only. At most
//! one request for a token is under way for a repository; everybody else waits for its outcome.
//!
//! Source: format reference 6.2, 6.3.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::Semaphore;

use super::blob_url::RepositoryUrl;
use super::challenge::{self, Challenge};
use super::client::Client;
use super::credentials::Found;
use super::failure::{Attempt, Failure};
use super::token::{TokenService, refused_with};
use crate::error::Remote;

/// What the registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Asked {
    Basic,
    Bearer(TokenService),
}

/// A proof that lets requests in, for a while.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) header: HeaderValue,
    /// Was it given for a user name and password?
    pub(super) of_user: bool,
    /// Why not, if that is not because there are none.
    trouble: Option<Failure>,
    pub(super) since: Instant,
    renew_at: Option<Instant>,
    ends_at: Option<Instant>,
    /// Somebody renews it, or has tried.
    renewing: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    asked: Option<Asked>,
    grant: Option<Arc<Grant>>,
    /// Renewals that have ended.
    rounds: u64,
    /// How the last one failed, if it did.
    failure: Option<Failure>,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Repository {
    pub(super) url: RepositoryUrl,
    /// Requests to the registry's host that may be under way at once.
    pub(super) connections: Arc<Semaphore>,
    /// One of its blobs, as credential servers want to know.
    sample: String,
    state: Mutex<State>,
    turn: tokio::sync::Mutex<()>,
    /// Held by the very first request until it is answered; the others would all be refused too.
    pub(super) first: tokio::sync::Mutex<()>,
    answered: AtomicBool,
}

impl Repository {
    pub(super) fn new(url: RepositoryUrl, sample: String, connections: Arc<Semaphore>) -> Self {
        Self {
            url,
            connections,
            sample,
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            first: tokio::sync::Mutex::default(),
            answered: AtomicBool::new(false),
        }
    }

    /// Is it a token, or a password?
    pub(super) fn is_by_token(&self) -> bool {
        matches!(self.state().asked, Some(Asked::Bearer(_)))
    }

    /// Has the registry told what it wants, or that it wants nothing?
    pub(super) fn is_known(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    pub(super) fn set_known(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// What to send now; `None` = nothing, as far as is known. May wait for a token.
    pub(super) async fn grant(
        self: &Arc<Self>,
        client: &Arc<Client>,
    ) -> Attempt<Option<Arc<Grant>>> {
        let now = Instant::now();
        let current = {
            let state = self.state();
            match (&state.asked, &state.grant) {
                (None, _) => return Ok(None),
                (Some(_), grant) => grant.clone(),
            }
        };
        match current {
            Some(grant) if !grant.has_ended(now) => {
                if grant.is_old(now) && !grant.renewing.swap(true, Ordering::Relaxed) {
                    self.renew_behind(client, &grant);
                }
                Ok(Some(grant))
            }
            ended => self.renew(client, ended.as_deref()).await.map(Some),
        }
    }

    /// A token that is still good is replaced while it is used. Should that fail, the next one who finds it
    /// ended tries again.
    fn renew_behind(self: &Arc<Self>, client: &Arc<Client>, grant: &Arc<Grant>) {
        let (repository, client) = (Arc::clone(self), Arc::clone(client));
        let grant = Arc::clone(grant);
        drop(tokio::spawn(async move {
            if let Err(failure) = repository.renew(&client, Some(&grant)).await {
                log::debug!("{}: {}", repository.url.as_str(), failure.words);
            }
        }));
    }

    /// The registry answered 401 or 403: takes note of what it wants. False when that is nothing we can do.
    pub(super) fn note_challenge(&self, headers: &HeaderMap) -> bool {
        let lines = headers.get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<Challenge> = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let mut state = self.state();
        if let Some(asked) = self.choose(&challenges)
            && state.asked.as_ref() != Some(&asked)
        {
            state.asked = Some(asked);
            state.grant = None;
        }
        state.asked.is_some()
    }

    /// A token is worth less than a password when it is lost.
    fn choose(&self, challenges: &[Challenge]) -> Option<Asked> {
        let bearer = challenges.iter().filter(|found| found.scheme == "bearer");
        let mut services =
            bearer.filter_map(|found| TokenService::new(found, self.url.pull_scope()));
        match services.next() {
            Some(service) => Some(Asked::Bearer(service)),
            None => {
                let basic = challenges.iter().any(|found| found.scheme == "basic");
                basic.then_some(Asked::Basic)
            }
        }
    }

    /// A grant other than `refused`. One request at a time; who waited takes its outcome.
    pub(super) async fn renew(
        &self,
        client: &Client,
        refused: Option<&Grant>,
    ) -> Attempt<Arc<Grant>> {
        let round = self.state().rounds;
        let _turn = self.turn.lock().await;
        let asked = {
            let state = self.state();
            match &state.grant {
                Some(grant) if grant.replaces(refused) => return Ok(Arc::clone(grant)),
                _ => (),
            }
            match (&state.failure, &state.asked) {
                (Some(failure), _) if state.rounds != round => return Err(failure.clone()),
                (_, None) => return Err(self.nothing_asked()),
                (_, Some(asked)) => asked.clone(),
            }
        };
        let outcome = self.obtain(client, &asked).await.map(Arc::new);
        let mut state = self.state();
        state.rounds += 1;
        state.failure = outcome.as_ref().err().cloned();
        // What was there before may still be good when there is nothing better.
        if let Ok(grant) = &outcome {
            state.grant = Some(Arc::clone(grant));
        }
        outcome
    }

    async fn obtain(&self, client: &Client, asked: &Asked) -> Attempt<Grant> {
        let found = client.credentials.find(&self.url, &self.sample).await;
        let (credentials, trouble) = match found {
            Found::Credentials(credentials) => (Some(credentials), None),
            Found::None => (None, None),
            Found::Unavailable(failure) => (None, Some(failure)),
        };
        let basic = credentials.and_then(|credentials| credentials.basic());
        let of_user = basic.is_some();
        match asked {
            Asked::Basic => match basic {
                Some(header) => Ok(Grant::lasting(header)),
                None => {
                    let words = format!("{} wants a user name and password", self.url.place());
                    let failure = Failure::new(Remote::Unauthorized, words);
                    Err(self.explain(client, failure, false, trouble))
                }
            },
            Asked::Bearer(service) => {
                if of_user && !service.is_trustworthy(self.url.url()) {
                    let words = format!(
                        "{} speaks plain http and is not the registry's host: credentials are not sent to it",
                        service.place()
                    );
                    return Err(Failure::new(Remote::Unauthorized, words));
                }
                client.count_token();
                let token = service.ask(&client.transport, basic.as_ref()).await;
                let token = token
                    .map_err(|failure| self.explain(client, failure, of_user, trouble.clone()))?;
                Ok(Grant {
                    header: token.header,
                    of_user,
                    trouble,
                    since: token.asked_at,
                    renew_at: token.asked_at.checked_add(token.life.mul_f64(0.75)),
                    ends_at: token.asked_at.checked_add(end_of(token.life)),
                    renewing: AtomicBool::new(false),
                })
            }
        }
    }

    /// What an operator can do about a refusal.
    pub(super) fn explain(
        &self,
        client: &Client,
        failure: Failure,
        of_user: bool,
        trouble: Option<Failure>,
    ) -> Failure {
        let place = self.url.place();
        if of_user {
            return refused_with(failure, &format!("check credentials for {place}"));
        }
        let Some(trouble) = trouble else {
            let keeper = client.credentials.place();
            let advice = format!("no credentials for {place} in {keeper}");
            return refused_with(failure, &advice);
        };
        let explained = refused_with(failure, &trouble.words);
        match trouble.is_transient() {
            // With credentials it might have gone well, and they may come.
            true => Failure {
                kind: trouble.kind,
                ..explained
            },
            false => explained,
        }
    }

    /// As [`Repository::explain`], for a refusal of `grant`.
    pub(super) fn explain_refusal(
        &self,
        client: &Client,
        failure: Failure,
        grant: Option<&Grant>,
    ) -> Failure {
        let of_user = grant.is_some_and(|grant| grant.of_user);
        let trouble = grant.and_then(|grant| grant.trouble.clone());
        self.explain(client, failure, of_user, trouble)
    }

    fn nothing_asked(&self) -> Failure {
        let words = format!("{} does not say what it wants", self.url.place());
        Failure::new(Remote::Unauthorized, words)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A little before the server's end, for the time on the way.
fn end_of(life: Duration) -> Duration {
    life.saturating_sub((life / 10).min(Duration::from_secs(2)))
}

impl Grant {
    /// A password has no end.
    fn lasting(header: HeaderValue) -> Self {
        Self {
            header,
            of_user: true,
            trouble: None,
            since: Instant::now(),
            renew_at: None,
            ends_at: None,
            renewing: AtomicBool::new(false),
        }
    }

    fn is_old(&self, now: Instant) -> bool {
        self.renew_at.is_some_and(|at| at <= now)
    }

    fn has_ended(&self, now: Instant) -> bool {
        self.ends_at.is_some_and(|at| at <= now)
    }

    /// Is it worth a try after `refused`?
    fn replaces(&self, refused: Option<&Self>) -> bool {
        !self.has_ended(Instant::now())
            && refused.is_none_or(|refused| refused.header != self.header)
    }
}
