//! What goes wrong, and when.

use crate::http::Head;

/// One thing that goes wrong with the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The connection is reset before any answer.
    HangUp,
    /// The connection is reset in the middle of the body.
    Reset,
    /// Nothing more comes from some place of the body on; the connection stays open.
    Stall,
    /// The connection is closed in order in the middle of the body.
    Truncate,
    /// The answer ends early and its `Content-Length` says so.
    ShortLength,
    /// Right bytes under a `Content-Range` that starts elsewhere.
    WrongContentRange,
    /// 200 and the whole blob instead of 206 and the range.
    WholeBlob,
    /// One bit of the body is wrong.
    FlippedBit,
    /// An answer with this status instead.
    Status {
        /// 4xx or 5xx.
        code: u16,
        /// Seconds of a `Retry-After`.
        retry_after: Option<u32>,
    },
}

impl Fault {
    /// Those that a client gets over by asking again, with small delays.
    pub const TRANSIENT: [Self; 9] = [
        Self::HangUp,
        Self::Reset,
        Self::Truncate,
        Self::ShortLength,
        Self::WrongContentRange,
        Self::WholeBlob,
        Self::status(503),
        Self::status(429),
        Self::Status {
            code: 503,
            retry_after: Some(0),
        },
    ];

    /// An answer with this status, without `Retry-After`.
    #[must_use]
    pub const fn status(code: u16) -> Self {
        Self::Status {
            code,
            retry_after: None,
        }
    }
}

/// When which fault happens. Only requests for blobs (`GET /v2/.../blobs/...`) are spoiled.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    kinds: Vec<Fault>,
    per_mille: u32,
    seed: u64,
    left: Option<u32>,
    asked: u64,
}

impl Faults {
    /// Nothing goes wrong.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The next `count` requests for blobs go wrong in this way.
    #[must_use]
    pub fn next(count: u32, fault: Fault) -> Self {
        Self {
            left: Some(count),
            ..Self::always(fault)
        }
    }

    /// Every request for a blob goes wrong in this way.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self::random(0, 1000, vec![fault])
    }

    /// So many of a thousand requests go wrong in one of these ways; the same ones for the same seed
    /// and the same order of requests.
    #[must_use]
    pub fn random(seed: u64, per_mille: u32, kinds: Vec<Fault>) -> Self {
        Self {
            kinds,
            per_mille,
            seed,
            ..Self::default()
        }
    }

    /// What happens to this request, and a number to choose the place by.
    pub(super) fn choose(&mut self, request: &Head) -> Option<(Fault, u64)> {
        let blob = request.method() == "GET" && request.path().contains("/blobs/");
        if !blob || self.left == Some(0) {
            return None;
        }
        self.asked += 1;
        let mut random = fastrand::Rng::with_seed(self.seed.wrapping_mul(0x9E37_79B9) ^ self.asked);
        if random.u32(0..1000) >= self.per_mille {
            return None;
        }
        let fault = *self.kinds.get(random.usize(..self.kinds.len().max(1)))?;
        self.left = self.left.map(|left| left - 1);
        Some((fault, random.u64(..)))
    }
}
