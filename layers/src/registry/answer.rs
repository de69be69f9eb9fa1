//! Is the answer to a range request the range?
//!
//! origin, accelerator -> **answer** -> transfer
//!
//! Invariant: no byte is passed on whose place in the blob the server has not stated: a 206 by its
//! `Content-Range`, a 200 by beginning at byte 0.

use std::ops::Range;

use reqwest::header::{CONTENT_ENCODING, CONTENT_RANGE};
use reqwest::{Response, StatusCode};

use super::blob_state::BlobState;
use super::content_range::ContentRange;
use super::failure::{Attempt, Failure};
use super::status;
use crate::error::Remote;

/// So many unwanted bytes before the range are read and dropped, if a server sends the whole blob.
const SKIP_BYTES_MAX: u64 = 1 << 20;

/// A body that holds the range, or its beginning.
pub(super) struct Body {
    pub(super) response: Response,
    /// The server, for messages.
    pub(super) place: String,
    /// Bytes before the first wanted one.
    pub(super) skip: u64,
    /// Wanted bytes in it.
    pub(super) len: u64,
    pub(super) by_accelerator: bool,
}

/// Checks the head of an answer to a request for `range`.
pub(super) fn check(
    blob: &BlobState,
    range: &Range<u64>,
    response: Response,
    place: String,
) -> Attempt<Body> {
    let bad = |what: String| Err(Failure::new(Remote::BadAnswer, format!("{place} {what}")));
    let encoding = response.headers().get(CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return bad("encodes the blob, which was asked for as it is".to_owned());
    }
    let content_range = response.headers().get(CONTENT_RANGE);
    let said = content_range.and_then(|value| value.to_str().ok());
    let parsed = said.and_then(ContentRange::parse);
    let (skip, end) = match (response.status(), parsed) {
        (StatusCode::PARTIAL_CONTENT, Some(ContentRange::Bytes { first, last, total })) => {
            if let Some(total) = total {
                blob.learn_size(&place, total)?;
            }
            if first != range.start {
                return bad(format!(
                    "sent bytes from {first}, asked for {}",
                    range.start
                ));
            }
            (0, last.saturating_add(1).min(range.end))
        }
        (StatusCode::PARTIAL_CONTENT, _) => {
            let said = said.unwrap_or("none");
            return bad(format!(
                "sent a part without a valid Content-Range: {said:.80?}"
            ));
        }
        (StatusCode::OK, _) => {
            if let Some(total) = response.content_length() {
                blob.learn_size(&place, total)?;
            }
            if range.start > SKIP_BYTES_MAX.max(range.end - range.start) {
                return bad("ignores Range and sends whole blobs".to_owned());
            }
            (range.start, range.end)
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(ContentRange::Unsatisfied { total })) => {
            blob.learn_size(&place, total)?;
            return Err(
                beyond_end(blob, range).unwrap_or_else(|| status::refused(&place, &response))
            );
        }
        _ => return Err(status::refused(&place, &response)),
    };
    if let Some(failure) = beyond_end(blob, range) {
        return Err(failure);
    }
    Ok(Body {
        response,
        place,
        skip,
        len: end - range.start,
        by_accelerator: false,
    })
}

fn beyond_end(blob: &BlobState, range: &Range<u64>) -> Option<Failure> {
    let size = blob.size()?;
    (range.end > size).then(|| Failure::out_of_range(range.end, size))
}
