//! One connection of a client: request after request, each passed on and its answer made worse.

use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering;
use std::time::Duration;

use socket2::SockRef;

use super::fault::Fault;
use super::shaper::TURN_BYTES;
use super::{Exchange, State};
use crate::http::{Head, write_answer};
use crate::listener::{Connection, locked};
use crate::token_server::TokenServer;

/// A registry that says nothing for so long is gone.
const UPSTREAM_TIME: Duration = Duration::from_secs(60);

/// An exchange in the log. What the client may see of it by now is always in it.
struct Entry<'a> {
    state: &'a State,
    number: u64,
    method: String,
}

impl<'a> Entry<'a> {
    fn new(state: &'a State, request: &Head) -> Self {
        let number = state.next.fetch_add(1, Ordering::Relaxed);
        let method = request.method().to_owned();
        let exchange = Exchange {
            method: method.clone(),
            target: request.target().to_owned(),
            range: request.header("Range").map(str::to_owned),
            authorized: request.header("Authorization").is_some(),
            user_agent: request.header("User-Agent").map(str::to_owned),
            status: 0,
            body_bytes: 0,
            fault: None,
        };
        locked(&state.log).insert(number, exchange);
        state.came.notify_all();
        Self {
            state,
            number,
            method,
        }
    }

    fn update(&self, change: impl FnOnce(&mut Exchange)) {
        locked(&self.state.log).get_mut(&self.number).map(change);
    }
}

/// May the client use the connection for another request?
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    GoOn,
    Close,
}

pub(super) fn serve(state: &State, connection: &Connection) -> io::Result<()> {
    state.connections.fetch_add(1, Ordering::Relaxed);
    connection.stream.set_nodelay(true)?;
    state.shaper.round_trip(connection);
    let mut reader = BufReader::new(connection.stream.try_clone()?);
    while let Some(request) = Head::read(&mut reader)? {
        let entry = Entry::new(state, &request);
        if answer(state, connection, request, &entry)? == After::Close {
            break;
        }
    }
    connection.stream.shutdown(Shutdown::Both)
}

fn answer(
    state: &State,
    connection: &Connection,
    request: Head,
    entry: &Entry<'_>,
) -> io::Result<After> {
    state.shaper.round_trip(connection);
    if let Some(refusal) = refusal(state, &request) {
        return own_answer(connection, refusal, entry);
    }
    let chosen = locked(&state.faults).choose(&request);
    let fault = chosen.map(|(fault, _)| fault);
    entry.update(|exchange| exchange.fault = fault);
    match fault {
        Some(Fault::HangUp) => reset(&connection.stream),
        Some(Fault::Status { code, retry_after }) => {
            let mut head = Head::answer(code);
            if let Some(seconds) = retry_after {
                head.set("Retry-After", &seconds.to_string());
            }
            own_answer(connection, head, entry)
        }
        _ => pass_on(state, connection, request, entry, chosen),
    }
}

/// What the proxy itself refuses.
fn refusal(state: &State, request: &Head) -> Option<Head> {
    if !matches!(request.method(), "GET" | "HEAD") {
        return Some(Head::answer(405).with("Connection", "close"));
    }
    let gate = locked(&state.gate).clone()?;
    if gate.tokens.accepts(request.header("Authorization")) {
        return None;
    }
    // /v2/NAME/blobs/DIGEST
    let name = request.path().strip_prefix("/v2/");
    let name = name.and_then(|path| path.split("/blobs/").next());
    let scope = format!("repository:{}:pull", name.unwrap_or_default());
    let challenge = TokenServer::challenge(&gate.realm, &scope);
    Some(Head::answer(401).with("WWW-Authenticate", &challenge))
}

fn own_answer(connection: &Connection, head: Head, entry: &Entry<'_>) -> io::Result<After> {
    let status = head.status();
    entry.update(|exchange| exchange.status = status);
    let after = match head.header("Connection") {
        Some("close") => After::Close,
        _ => After::GoOn,
    };
    let mut stream = &connection.stream;
    write_answer(&mut stream, head, b"{\"errors\":[]}", &entry.method)?;
    Ok(after)
}

fn pass_on(
    state: &State,
    connection: &Connection,
    mut request: Head,
    entry: &Entry<'_>,
    fault: Option<(Fault, u64)>,
) -> io::Result<After> {
    if matches!(fault, Some((Fault::WholeBlob, _))) {
        request.remove("Range");
    }
    let Ok((mut upstream, _kept)) = connection.connect(state.upstream) else {
        return own_answer(connection, Head::answer(502), entry);
    };
    upstream.set_read_timeout(Some(UPSTREAM_TIME))?;
    request.set("Connection", "close");
    request.write_to(&mut upstream)?;
    let mut answer = BufReader::new(upstream);
    let Ok(Some(mut head)) = Head::read(&mut answer) else {
        return own_answer(connection, Head::answer(502), entry);
    };
    let status = head.status();
    entry.update(|exchange| exchange.status = status);
    head.remove("Connection");
    let body_bytes = match entry.method.as_str() {
        "HEAD" => Some(0),
        _ => head.body_bytes(),
    };
    let mut body = Body {
        state,
        connection,
        entry,
        sent: 0,
        place: u64::MAX,
        fault: None,
    };
    let Some(len) = body_bytes else {
        // Its end is the end of the connection.
        head.set("Connection", "close");
        head.write_to(&mut &connection.stream)?;
        body.copy(&mut answer)?;
        return Ok(After::Close);
    };
    if let Some((fault, number)) = fault.filter(|_| len > 0) {
        body.fault = Some(fault);
        body.place = number % len;
        spoil_head(&mut head, fault, body.place);
    }
    head.write_to(&mut &connection.stream)?;
    body.copy(&mut answer.take(len))
}

fn spoil_head(head: &mut Head, fault: Fault, place: u64) {
    match fault {
        Fault::ShortLength => head.set("Content-Length", &place.to_string()),
        Fault::WrongContentRange => {
            // bytes FIRST-LAST/TOTAL
            let moved = head.header("Content-Range").and_then(|value| {
                let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
                let (first, last) = range.split_once('-')?;
                let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
                Some(format!("bytes {}-{}/{total}", first + 512, last + 512))
            });
            if let Some(moved) = moved {
                head.set("Content-Range", &moved);
            }
        }
        _ => {}
    }
}

/// A body on its way to the client.
struct Body<'a> {
    state: &'a State,
    connection: &'a Connection,
    entry: &'a Entry<'a>,
    sent: u64,
    /// Where in it the fault is.
    place: u64,
    fault: Option<Fault>,
}

impl Body<'_> {
    fn copy(&mut self, from: &mut impl Read) -> io::Result<After> {
        let mut buf = [0; TURN_BYTES];
        loop {
            let len = from.read(&mut buf)?;
            let Some(piece) = buf.get_mut(..len).filter(|piece| !piece.is_empty()) else {
                return Ok(After::GoOn);
            };
            let begin = self.sent;
            let place = usize::try_from(self.place.saturating_sub(begin)).unwrap_or(usize::MAX);
            let here = place < len;
            match self.fault {
                Some(Fault::FlippedBit) => {
                    if let Some(byte) = piece.get_mut(place).filter(|_| self.place >= begin) {
                        *byte ^= 1 << (self.place % 8);
                    }
                }
                Some(fault) if here && ends_body(fault) => {
                    self.send(piece.get(..place).unwrap_or_default())?;
                    return end_body(fault, &self.connection.stream);
                }
                _ => {}
            }
            self.send(piece)?;
        }
    }

    fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        self.state.shaper.pass(piece.len(), self.connection);
        let len = u64::try_from(piece.len()).unwrap_or(0);
        self.sent += len;
        self.entry.update(|exchange| exchange.body_bytes += len);
        self.state.body_bytes.fetch_add(len, Ordering::Relaxed);
        (&self.connection.stream).write_all(piece)
    }
}

fn ends_body(fault: Fault) -> bool {
    matches!(
        fault,
        Fault::Reset | Fault::Stall | Fault::Truncate | Fault::ShortLength
    )
}

fn end_body(fault: Fault, stream: &TcpStream) -> io::Result<After> {
    match fault {
        Fault::Reset => reset(stream),
        Fault::Stall => {
            // Until the client has enough of it, or this server ends.
            io::copy(&mut &*stream, &mut io::sink())?;
            Ok(After::Close)
        }
        Fault::ShortLength => Ok(After::GoOn),
        _ => Ok(After::Close),
    }
}

/// Ends the connection with a reset.
fn reset(stream: &TcpStream) -> io::Result<After> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
    Err(io::ErrorKind::ConnectionReset.into())
}
