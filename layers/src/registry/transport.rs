//! One HTTP GET, with an end to every wait.
//!
//! origin, token, accelerator, credential server -> **transport** -> reqwest

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, RANGE};
use reqwest::{Client, Response};
use url::Url;

use super::failure::{Attempt, Failure};
use super::status;
use crate::error::Remote;

/// A client, and how long its servers may be silent.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client,
    silence: Duration,
}

/// The client shows the proxies' URLs, which may hold passwords.
impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transport(..)")
    }
}

impl Transport {
    pub(super) fn new(client: Client, silence: Duration) -> Self {
        Self { client, silence }
    }

    /// The head of the answer, whatever its status. `place` is what messages call the server.
    pub(super) async fn get(
        &self,
        place: &str,
        url: &Url,
        range: Option<&Range<u64>>,
        authorization: Option<&HeaderValue>,
    ) -> Attempt<Response> {
        // A range of anything but the stored bytes would be worth nothing.
        let mut request = self
            .client
            .get(url.clone())
            .header(ACCEPT_ENCODING, "identity");
        if let Some(range) = range {
            let last = range.end.saturating_sub(1);
            request = request.header(RANGE, format!("bytes={}-{last}", range.start));
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        match tokio::time::timeout(self.silence, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(status::of_transport(place, &error)),
            Err(_) => Err(self.silent(place)),
        }
    }

    /// The next piece of a body; `None` at its end.
    pub(super) async fn piece(
        &self,
        place: &str,
        response: &mut Response,
    ) -> Attempt<Option<Bytes>> {
        match tokio::time::timeout(self.silence, response.chunk()).await {
            Ok(Ok(piece)) => Ok(piece),
            Ok(Err(error)) => Err(status::of_transport(place, &error)),
            Err(_) => Err(self.silent(place)),
        }
    }

    /// A whole small body.
    pub(super) async fn read_all(
        &self,
        place: &str,
        mut response: Response,
        bytes_max: u64,
    ) -> Attempt<Vec<u8>> {
        let mut body = Vec::new();
        while let Some(piece) = self.piece(place, &mut response).await? {
            if (body.len() + piece.len()) as u64 > bytes_max {
                let words = format!("{place}: an answer of more than {bytes_max} bytes");
                return Err(Failure::new(Remote::BadAnswer, words));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn silent(&self, place: &str) -> Failure {
        let words = format!("{place} sent nothing for {:?}", self.silence);
        Failure::new(Remote::TimedOut, words)
    }
}
