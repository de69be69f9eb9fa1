//! As much of HTTP/1.1 as these servers speak: heads, and bodies of known length.
//!
//! listener -> **http** -> proxy, token server, redirect server
//!
//! Invariant: a head is never longer than [`HEAD_BYTES_MAX`].

use std::io::{self, BufRead, Read, Write};

/// Longest request or answer up to its body.
const HEAD_BYTES_MAX: u64 = 64 * 1024;

/// The first line and the headers of a request or an answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    pub(crate) first_line: String,
    headers: Vec<(String, String)>,
}

impl Head {
    /// Reads one; `None` when the connection ends before it.
    pub(crate) fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut limited = reader.take(HEAD_BYTES_MAX);
        let mut next_line = || {
            let mut line = String::new();
            limited.read_line(&mut line)?;
            match line.strip_suffix('\n') {
                Some(line) => Ok(Some(line.trim_end_matches('\r').to_owned())),
                None if line.is_empty() => Ok(None),
                None => Err(io::Error::other(
                    "a head that ends too early or is too long",
                )),
            }
        };
        let Some(first_line) = next_line()? else {
            return Ok(None);
        };
        let mut head = Self {
            first_line,
            ..Self::default()
        };
        loop {
            let line = next_line()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if line.is_empty() {
                return Ok(Some(head));
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| io::Error::other(format!("no header: {line}")))?;
            head.headers
                .push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// An answer with this status.
    pub(crate) fn answer(status: u16) -> Self {
        Self {
            first_line: format!("HTTP/1.1 {status} {}", reason(status)),
            headers: Vec::new(),
        }
    }

    /// The value of a header, whatever the case of its name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
        self.headers
            .iter()
            .find(found)
            .map(|(_, value)| value.as_str())
    }

    /// Replaces or adds a header.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.headers
            .retain(|(other, _)| !other.eq_ignore_ascii_case(name));
    }

    /// Word `number` of the first line.
    fn word(&self, number: usize) -> &str {
        self.first_line.split(' ').nth(number).unwrap_or_default()
    }

    /// Of a request.
    pub(crate) fn method(&self) -> &str {
        self.word(0)
    }

    /// Of a request: path and query.
    pub(crate) fn target(&self) -> &str {
        self.word(1)
    }

    /// Of a request: the path alone.
    pub(crate) fn path(&self) -> &str {
        self.target().split('?').next().unwrap_or_default()
    }

    /// Of a request: the values of a query key, unescaped.
    pub(crate) fn query(&self, key: &str) -> Vec<String> {
        let (_, query) = self.target().split_once('?').unwrap_or_default();
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(name, _)| *name == key)
            .map(|(_, value)| unescape(value))
            .collect()
    }

    /// Of an answer.
    pub(crate) fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or(0)
    }

    /// Bytes of the body, when the head tells.
    pub(crate) fn body_bytes(&self) -> Option<u64> {
        self.header("Content-Length")?.parse().ok()
    }

    pub(crate) fn write_to(&self, stream: &mut impl Write) -> io::Result<()> {
        let mut text = format!("{}\r\n", self.first_line);
        for (name, value) in &self.headers {
            text.push_str(name);
            text.push_str(": ");
            text.push_str(value);
            text.push_str("\r\n");
        }
        text.push_str("\r\n");
        stream.write_all(text.as_bytes())
    }
}

/// Writes an answer with a whole body. One for HEAD has the length of the body, but not the body.
pub(crate) fn write_answer(
    stream: &mut impl Write,
    head: Head,
    body: &[u8],
    method: &str,
) -> io::Result<()> {
    head.with("Content-Length", &body.len().to_string())
        .write_to(stream)?;
    match method {
        "HEAD" => Ok(()),
        _ => stream.write_all(body),
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        307 => "Temporary Redirect",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Other",
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        rest = match (first, escaped) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                after.get(2..).unwrap_or_default()
            }
            (b'+', _) => {
                bytes.push(b' ');
                after
            }
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart() {
        let text = b"GET /token?service=a%20b&scope=x:y&scope=z HTTP/1.1\r\nHOST: h\r\n\r\nrest";
        let mut reader = &text[..];
        let head = Head::read(&mut reader).unwrap().unwrap();
        assert_eq!((head.method(), head.path()), ("GET", "/token"));
        assert_eq!(head.query("service"), ["a b"]);
        assert_eq!(head.query("scope"), ["x:y", "z"]);
        assert_eq!(head.header("host"), Some("h"));
        assert_eq!(reader, b"rest");
    }

    #[test]
    fn the_end_of_a_connection_is_no_request() {
        assert!(Head::read(&mut &b""[..]).unwrap().is_none());
        Head::read(&mut &b"GET / HT"[..]).unwrap_err();
        Head::read(&mut &b"GET / HTTP/1.1\r\nA: b\r\n"[..]).unwrap_err();
    }

    #[test]
    fn a_head_without_end_is_refused() {
        let endless = vec![b'a'; 1 << 20];
        Head::read(&mut endless.as_slice()).unwrap_err();
    }
}
