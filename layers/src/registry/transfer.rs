//! One range of a blob, fetched in as many attempts as it takes.
//!
//! registry (caller's thread) -> **transfer** (driver's thread) -> admission, origin
//!
//! Invariants: pieces are handed over in order, each byte once; an attempt begins where the last
//! one stopped. Ends by the deadline, or as soon as nobody waits for it.

use std::future::Future;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::Sender;

use super::answer::Body;
use super::blob_state::BlobState;
use super::client::Client;
use super::failure::{Attempt, Failure};
use super::retry::Backoff;
use crate::error::{Error, Remote, Result};
use crate::range_source::Urgency;

/// After the last wanted byte a body may say that it has ended, so that its connection can be used again.
const END_OF_BODY: Duration = Duration::from_millis(20);

/// What the caller hears.
#[derive(Debug)]
pub(super) enum Message {
    /// The next bytes.
    Piece(Bytes),
    /// The last message.
    End(Result<()>),
}

/// What is wanted of the blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Bytes,
    Size,
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) client: Arc<Client>,
    pub(super) blob: Arc<BlobState>,
    pub(super) want: Want,
    pub(super) range: Range<u64>,
    pub(super) urgency: Urgency,
    pub(super) deadline: Instant,
    pub(super) caller: Sender<Message>,
}

impl Transfer {
    /// Runs until the end was told to the caller, or the caller has gone.
    pub(super) async fn run(mut self) {
        let caller = self.caller.clone();
        let end = unless_gone(&caller, self.fetch()).await;
        if let Some(end) = end {
            // Who has gone now does not need to know.
            drop(caller.send(Message::End(end)).await);
        }
    }

    async fn fetch(&mut self) -> Result<()> {
        let began = Instant::now();
        let deadline = tokio::time::Instant::from_std(self.deadline);
        let mut backoff = Backoff::new(&self.client.timing);
        let mut attempts = 0_u64;
        let mut last = None;
        let mut outage_told = false;
        loop {
            attempts += 1;
            let before = self.range.start;
            let failure = match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Ok(())) if self.is_done() => {
                    if outage_told {
                        log::info!("{}: fetched after {:.1?}", self.blob.url, began.elapsed());
                    }
                    return Ok(());
                }
                // A server may send less than it was asked for.
                Ok(Ok(())) => continue,
                Ok(Err(_)) if self.want == Want::Size && self.is_done() => return Ok(()),
                Ok(Err(failure)) => failure,
                Err(_) => return Err(self.give_up(last, began, attempts)),
            };
            if !failure.is_transient() {
                return Err(self.error(failure));
            }
            if self.range.start > before {
                backoff.reset();
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            // Whoever waits is promised all of the time: the last attempt comes just before its end.
            let last_attempt = left.saturating_sub(self.client.timing.backoff_first);
            let wait = match failure.retry_after {
                // What all clients are told alike must not bring them back all at once, or at once.
                Some(wait) => Some(wait + backoff.next_wait()).filter(|wait| *wait < left),
                None if last_attempt.is_zero() => None,
                None => Some(backoff.next_wait().min(last_attempt)),
            };
            let Some(wait) = wait else {
                return Err(self.give_up(Some(failure), began, attempts));
            };
            let is_news = !outage_told && began.elapsed() >= self.client.timing.outage;
            outage_told |= is_news;
            let level = match is_news {
                true => log::Level::Warn,
                false => log::Level::Debug,
            };
            let (url, words) = (&self.blob.url, &failure.words);
            log::log!(
                level,
                "{url}: {words}; tried {attempts} times, again in {wait:.1?}, for {left:.0?} more"
            );
            last = Some(failure);
            tokio::time::sleep(wait).await;
            let retries = &self.client.metrics.registry_retries;
            retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_done(&self) -> bool {
        match self.want {
            Want::Bytes => self.range.is_empty(),
            Want::Size => self.blob.size().is_some(),
        }
    }

    async fn attempt(&mut self) -> Attempt<()> {
        let (client, blob) = (Arc::clone(&self.client), Arc::clone(&self.blob));
        let _admitted = client.admission.enter(self.urgency).await;
        // Fails only when it was closed, which nobody does.
        let _connection = blob.repository.connections.acquire().await.ok();
        let _counted = InFlight::new(&client);
        let body = client.ask(&blob, &self.range).await?;
        if self.want == Want::Size && !self.is_done() {
            let words = format!("{} does not say how large the blob is", body.place);
            return Err(Failure::new(Remote::BadAnswer, words));
        }
        let by_accelerator = body.by_accelerator;
        let outcome = self.pass_on(body).await;
        if let Some(accelerator) = client.accelerator.as_ref().filter(|_| by_accelerator) {
            match &outcome {
                Ok(()) => accelerator.worked(),
                Err(failure) => accelerator.failed(failure),
            }
        }
        outcome
    }

    /// Hands the wanted bytes of a body over.
    async fn pass_on(&mut self, mut body: Body) -> Attempt<()> {
        let client = Arc::clone(&self.client);
        let transport = match &client.accelerator {
            Some(accelerator) if body.by_accelerator => accelerator.transport(),
            _ => &client.transport,
        };
        while body.len > 0 {
            let piece = transport.piece(&body.place, &mut body.response).await?;
            let Some(mut piece) = piece else {
                let words = format!("{} sent {} bytes less than it said", body.place, body.len);
                return Err(Failure::new(Remote::BadAnswer, words));
            };
            let unwanted = clip(body.skip, piece.len());
            body.skip -= unwanted as u64;
            drop(piece.split_to(unwanted));
            piece.truncate(clip(body.len, piece.len()));
            let len = piece.len() as u64;
            body.len -= len;
            if len > 0 {
                self.hand_over(piece).await?;
            }
        }
        let end = transport.piece(&body.place, &mut body.response);
        drop(tokio::time::timeout(END_OF_BODY, end).await);
        Ok(())
    }

    async fn hand_over(&mut self, piece: Bytes) -> Attempt<()> {
        let len = piece.len() as u64;
        if self.want == Want::Bytes {
            let bytes = &self.client.metrics.registry_bytes;
            bytes.fetch_add(len, Ordering::Relaxed);
            let sent = self.caller.send(Message::Piece(piece)).await;
            sent.map_err(|_| Failure::new(Remote::Connection, "nobody waits any more"))?;
        }
        self.range.start += len;
        Ok(())
    }

    fn error(&self, failure: Failure) -> Error {
        let op = match self.want {
            Want::Bytes => "fetch blob",
            Want::Size => "ask for blob size",
        };
        failure.into_error(op, self.blob.url.as_str(), self.range.start)
    }

    /// The deadline is here, or nearer than what a server wants us to wait.
    fn give_up(&self, last: Option<Failure>, began: Instant, attempts: u64) -> Error {
        let time = Instant::now()
            .saturating_duration_since(began)
            .as_secs_f64();
        let place = self.blob.repository.url.place();
        let failure = last.unwrap_or_else(|| {
            let words = format!("no answer from {place} in the time there was");
            Failure::new(Remote::TimedOut, words)
        });
        let tries = if attempts == 1 { "attempt" } else { "attempts" };
        self.error(Failure {
            words: format!(
                "{}; gave up after {time:.1} s and {attempts} {tries}",
                failure.words
            ),
            ..failure
        })
    }
}

/// At most `len`.
fn clip(wanted: u64, len: usize) -> usize {
    usize::try_from(wanted).map_or(len, |wanted| wanted.min(len))
}

/// Runs `work` until it is done, or nobody listens to `caller` any more.
async fn unless_gone<T>(caller: &Sender<Message>, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut gone = pin!(caller.closed());
    std::future::poll_fn(|context| {
        if let Poll::Ready(done) = work.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        gone.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// One attempt that is counted while it lasts.
struct InFlight<'a>(&'a Client);

impl<'a> InFlight<'a> {
    fn new(client: &'a Client) -> Self {
        client
            .metrics
            .registry_in_flight
            .fetch_add(1, Ordering::Relaxed);
        Self(client)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0
            .metrics
            .registry_in_flight
            .fetch_sub(1, Ordering::Relaxed);
    }
}
