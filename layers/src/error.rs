//! The one error type of the engine.
//!
//! Every error says what was being done, to which file or blob, at which byte, and what was
//! found instead of what was expected, in one line. Front ends match on [`ErrorKind`] and turn
//! it into a virtio status, SCSI sense, errno or exit code in one table each.

use std::fmt;
use std::io;

/// Result of every fallible engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, coarse enough to choose a wire status by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused a read, write or open.
    Io,
    /// A file or directory that was named does not exist.
    NotFound,
    /// Bytes of a layer break a rule of their format or fail a checksum.
    Corrupt,
    /// Legal, but not something this version can do.
    Unsupported,
    /// A caller asked for bytes outside the file or disk, or unaligned ones.
    OutOfRange,
    /// A config file or an argument makes no sense.
    Config,
    /// The host's file system is full, or a quota is.
    NoSpace,
    /// A change of something that cannot be changed.
    ReadOnly,
    /// Another process works on the file.
    Busy,
    /// A file that would be made is there already.
    Exists,
    /// A registry, a token server or a credential server did not give what was asked for.
    Remote(Remote),
}

/// What a server did, or why it could not be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remote {
    /// 401: no credentials, or wrong ones.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404: no such blob or repository.
    NotFound,
    /// 416: the blob is shorter than the range.
    RangeRefused,
    /// 429.
    Throttled,
    /// 408, or no answer within the time there was.
    TimedOut,
    /// 5xx.
    ServerFailed,
    /// The host's name has no address.
    Dns,
    /// No connection, or one that broke.
    Connection,
    /// The certificate is not trusted, or no TLS was spoken.
    Tls,
    /// An answer that breaks HTTP's or the registry's rules.
    BadAnswer,
}

impl Remote {
    /// May the same question get another answer a moment later?
    #[must_use]
    pub fn is_transient(self) -> bool {
        match self {
            Self::Throttled
            | Self::TimedOut
            | Self::ServerFailed
            | Self::Dns
            | Self::Connection
            | Self::BadAnswer => true,
            Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::RangeRefused
            | Self::Tls => false,
        }
    }
}

/// One failed operation.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    op: &'static str,
    file: Option<String>,
    offset: Option<u64>,
    detail: String,
    source: Option<io::Error>,
}

impl Error {
    /// `op` is a verb phrase such as "read zfile block"; `detail` says expected and found.
    pub fn new(kind: ErrorKind, op: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            op,
            file: None,
            offset: None,
            detail: detail.into(),
            source: None,
        }))
    }

    /// A format rule was broken.
    pub fn corrupt(op: &'static str, detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, op, detail)
    }

    /// An operating-system error; the kind follows from `source`. One of ours that came through
    /// [`std::io`] is taken as it is.
    pub fn io(op: &'static str, source: io::Error) -> Self {
        let source = match source.downcast::<Self>() {
            Ok(ours) => return ours,
            Err(source) => source,
        };
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        let mut error = Self::new(kind, op, String::new());
        error.0.source = Some(source);
        error
    }

    /// Names the file or blob, unless a deeper stage already did.
    #[must_use]
    pub fn in_file(mut self, file: impl Into<String>) -> Self {
        self.0.file.get_or_insert_with(|| file.into());
        self
    }

    /// Gives the byte offset inside the named file, unless a deeper stage already did.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// The coarse kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Byte offset inside the named file, when known.
    #[must_use]
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// The same error once more, for everybody who waited for what failed.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let inner = &self.0;
        let source = inner.source.as_ref().map(|source| {
            let number = source.raw_os_error().map(io::Error::from_raw_os_error);
            number.unwrap_or_else(|| io::Error::new(source.kind(), source.to_string()))
        });
        Self(Box::new(Inner {
            kind: inner.kind,
            op: inner.op,
            file: inner.file.clone(),
            offset: inner.offset,
            detail: inner.detail.clone(),
            source,
        }))
    }

    /// The error number of the system call that failed, if one did.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            op,
            file,
            offset,
            detail,
            source,
            ..
        } = &*self.0;
        f.write_str(op)?;
        if let Some(file) = file {
            write!(f, ": {file}")?;
        }
        if let Some(offset) = offset {
            write!(f, " at byte {offset}")?;
        }
        if !detail.is_empty() {
            write!(f, ": {detail}")?;
        }
        if let Some(source) = source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

// `source` is already part of the one-line display, so the chain ends here.
impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_line_with_operation_file_offset_and_cause() {
        let error = Error::corrupt("read zfile block", "checksum 0x1, expected 0x2")
            .in_file("/a/layer.obd")
            .at(512);
        assert_eq!(
            error.to_string(),
            "read zfile block: /a/layer.obd at byte 512: checksum 0x1, expected 0x2"
        );
    }

    #[test]
    fn the_deepest_stage_names_the_place() {
        let error = Error::corrupt("x", "y")
            .in_file("inner")
            .at(1)
            .in_file("outer")
            .at(2);
        assert_eq!(error.to_string(), "x: inner at byte 1: y");
    }

    #[test]
    fn an_error_that_came_through_a_writer_says_nothing_twice() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        let below = Error::io("write zfile", full).at(3);
        let error = Error::io("write layer", io::Error::other(below)).in_file("x");
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(
            error
                .to_string()
                .starts_with("write zfile: x at byte 3: No space"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let error = Error::io("open", io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
