//! Where to ask for a range of a blob, and how to be let in there.
//!
//! transfer -> **origin** -> accelerator | route's target | registry
//!
//! In the good case a range costs one request: what was learnt about the way is used as long as it
//! holds. Nothing is asked in advance.
//!
//! Invariant: what lets us in at a registry is sent to no other origin; as in the C++ daemon the
//! accelerator, which the operator has put there, is given it along with the registry's own URL.
//!
//! Source: format reference 6.2, 6.3, 6.6.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::Response;
use url::Url;

use super::accelerator::Accelerator;
use super::answer::{self, Body};
use super::blob_state::BlobState;
use super::client::Client;
use super::failure::{Attempt, Failure};
use super::redact;
use super::repository::Grant;
use super::route::{self, Life, Target, Way};
use super::status;
use crate::error::Remote;

const HOPS_MAX: usize = 8;

/// A grant, another that somebody else got meanwhile, and a new one.
const GRANTS_MAX: usize = 3;

/// Who finds out for everybody else holds them up no longer; then each goes by itself.
const TURN: Duration = Duration::from_secs(1);

/// An answer, and the way to it.
struct Arrival {
    response: Response,
    place: String,
    url: Url,
    hops: usize,
    /// Was the registry's own origin never left?
    at_registry: bool,
    life: Life,
}

impl Client {
    /// Asks for `range`; gives the head of an answer that was checked.
    pub(super) async fn ask(
        self: &Arc<Self>,
        blob: &BlobState,
        range: &Range<u64>,
    ) -> Attempt<Body> {
        let usable = self.accelerator.as_ref().filter(|found| found.is_usable());
        if let Some(accelerator) = usable
            && let Some(body) = self.ask_accelerator(accelerator, blob, range).await?
        {
            return Ok(body);
        }
        let mut way = blob.route.way();
        let mut turn = None;
        if matches!(way, Way::Unknown) {
            // Who waits for a token does so together with all others, without holding them up.
            drop(blob.repository.grant(self).await?);
            turn = tokio::time::timeout(TURN, blob.route.turn.lock())
                .await
                .ok();
            way = blob.route.way();
        }
        if let Way::Target(target) = way {
            drop(turn.take());
            if let Some(body) = self.ask_target(blob, range, &target).await? {
                return Ok(body);
            }
        } else if matches!(way, Way::Registry) {
            drop(turn.take());
        }
        let arrival = self.ask_registry(blob, range).await?;
        answer::check(blob, range, arrival.response, arrival.place)
    }

    /// Asks where the registry has sent us before. `None` when that is used up.
    async fn ask_target(
        self: &Arc<Self>,
        blob: &BlobState,
        range: &Range<u64>,
        target: &Target,
    ) -> Attempt<Option<Body>> {
        let grant = match target.at_registry {
            true => blob.repository.grant(self).await?,
            false => None,
        };
        let header = grant.as_ref().map(|grant| &grant.header);
        let place = place_of(blob, &target.url);
        let response = self.get_range(&place, &target.url, range, header).await;
        let usable = response.as_ref().is_ok_and(|response| {
            response.status().is_success() || response.status().as_u16() == 416
        });
        if !usable {
            blob.route.forget();
        }
        let response = response?;
        if status::is_used_up(response.status()) || status::is_redirect(response.status()) {
            return Ok(None);
        }
        answer::check(blob, range, response, place).map(Some)
    }

    /// Asks the registry, shows it what it wants to see, follows it, and keeps the way.
    async fn ask_registry(
        self: &Arc<Self>,
        blob: &BlobState,
        range: &Range<u64>,
    ) -> Attempt<Arrival> {
        let repository = &blob.repository;
        let mut first = None;
        if !repository.is_known() {
            first = tokio::time::timeout(TURN, repository.first.lock())
                .await
                .ok();
        }
        if repository.is_known() {
            drop(first.take());
        }
        let began = Instant::now();
        let mut grant = repository.grant(self).await?;
        for _ in 0..GRANTS_MAX {
            let arrival = self.follow(blob, range, grant.as_deref()).await?;
            let status = arrival.response.status().as_u16();
            let is_refused = arrival.at_registry && matches!(status, 401 | 403);
            let is_asked = is_refused && repository.note_challenge(arrival.response.headers());
            repository.set_known();
            drop(first.take());
            if !is_refused {
                keep_way(blob, &arrival);
                return Ok(arrival);
            }
            let failure = status::refused(&arrival.place, &arrival.response);
            drop(arrival);
            let is_new = grant.as_ref().is_some_and(|grant| grant.since >= began);
            if !is_asked || is_new {
                return Err(self.finally_refused(blob, failure, grant.as_deref()));
            }
            let renewed = repository.renew(self, grant.as_deref()).await?;
            if grant.is_some_and(|refused| refused.header == renewed.header) {
                return Err(self.finally_refused(blob, failure, Some(&renewed)));
            }
            grant = Some(renewed);
        }
        let words = format!("{} refuses every token", repository.url.place());
        let failure = Failure::new(Remote::Unauthorized, words);
        Err(self.finally_refused(blob, failure, grant.as_deref()))
    }

    fn finally_refused(
        &self,
        blob: &BlobState,
        mut failure: Failure,
        grant: Option<&Grant>,
    ) -> Failure {
        failure.words += match grant {
            Some(_) if blob.repository.is_by_token() => " after token refresh",
            Some(_) => " to the password",
            None => " and does not say what it wants",
        };
        blob.repository.explain_refusal(self, failure, grant)
    }

    /// Goes where the registry and those it names send us.
    async fn follow(
        &self,
        blob: &BlobState,
        range: &Range<u64>,
        grant: Option<&Grant>,
    ) -> Attempt<Arrival> {
        let mut url = blob.url.clone();
        let mut at_registry = true;
        let mut life = Life::Idle;
        for hops in 0..=HOPS_MAX {
            let header = grant.filter(|_| at_registry).map(|grant| &grant.header);
            let place = place_of(blob, &url);
            let response = self.get_range(&place, &url, range, header).await?;
            if !status::is_redirect(response.status()) {
                return Ok(Arrival {
                    response,
                    place,
                    url,
                    hops,
                    at_registry,
                    life,
                });
            }
            let next = route::next_hop(&url, response.headers())?;
            life = life.shorter(route::life_of(&next, response.headers()));
            at_registry &= route::is_same_origin(&url, &next);
            url = next;
        }
        let words = format!("{} redirects without end", blob.repository.url.place());
        Err(Failure::new(Remote::BadAnswer, words))
    }

    /// Asks the accelerator. `None` when it fails: then the origin is asked.
    async fn ask_accelerator(
        self: &Arc<Self>,
        accelerator: &Accelerator,
        blob: &BlobState,
        range: &Range<u64>,
    ) -> Attempt<Option<Body>> {
        let mut is_repeated = false;
        loop {
            let (url, grant) = self.resolve(blob).await?;
            let header = grant.as_ref().map(|grant| &grant.header);
            let outcome = accelerator.get(&url, range, header).await;
            let used_up = |response: &Response| status::is_used_up(response.status());
            if outcome.as_ref().is_ok_and(used_up) && !is_repeated {
                blob.route.forget();
                is_repeated = true;
                continue;
            }
            let place = accelerator.place.clone();
            let checked = outcome.and_then(|response| answer::check(blob, range, response, place));
            return match checked {
                Ok(mut body) => {
                    body.by_accelerator = true;
                    Ok(Some(body))
                }
                Err(failure) => {
                    accelerator.failed(&failure);
                    Ok(None)
                }
            };
        }
    }

    /// The blob's real URL, and what to show there; asks the registry for one byte if need be.
    async fn resolve(self: &Arc<Self>, blob: &BlobState) -> Attempt<(Url, Option<Arc<Grant>>)> {
        if matches!(blob.route.way(), Way::Unknown) {
            let _turn = tokio::time::timeout(TURN, blob.route.turn.lock()).await;
            if matches!(blob.route.way(), Way::Unknown) {
                let arrival = self.ask_registry(blob, &(0..1)).await?;
                let mut body = answer::check(blob, &(0..1), arrival.response, arrival.place)?;
                // One byte: leaves the connection for the next request.
                drop(self.transport.piece(&body.place, &mut body.response).await);
            }
        }
        match blob.route.way() {
            Way::Target(target) if !target.at_registry => Ok((target.url, None)),
            Way::Target(target) => Ok((target.url, blob.repository.grant(self).await?)),
            _ => Ok((blob.url.clone(), blob.repository.grant(self).await?)),
        }
    }
}

fn keep_way(blob: &BlobState, arrival: &Arrival) {
    let status = arrival.response.status();
    if !status.is_success() && status.as_u16() != 416 {
        return;
    }
    if arrival.hops == 0 {
        return blob.route.keep_registry();
    }
    let target = Target {
        url: arrival.url.clone(),
        at_registry: arrival.at_registry,
    };
    blob.route.keep_target(target, arrival.life);
}

/// What messages call the server at `url`.
fn place_of(blob: &BlobState, url: &Url) -> String {
    let place = redact::place(url);
    match route::is_same_origin(&blob.url, url) {
        true => place,
        false => format!("{place}, where {} sent us,", blob.repository.url.place()),
    }
}
