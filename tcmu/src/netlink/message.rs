//! Netlink messages as bytes.
//!
//! netlink -> **message**
//!
//! Invariant: no bytes lead to a panic; a message that is cut short, or whose lengths make no sense, ends the
//! datagram.
//!
//! Source: include/uapi/linux/{netlink,genetlink,target_core_user}.h.

use std::io;

/// `struct nlmsghdr` and `struct genlmsghdr`.
const HEADER_BYTES: usize = 20;
const NLMSG_HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// Bits of an attribute's type that are no type.
const ATTRIBUTE_TYPE: u16 = 0x3fff;

const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
/// The kernel says what has become of a request even if nothing went wrong.
const NLM_F_ACK: u16 = 4;

/// Of `struct nlmsghdr`.
const SEQUENCE: usize = 8;

/// The family that knows all others (GENL_ID_CTRL).
pub(super) const CONTROL_FAMILY: u16 = 16;
const CONTROL_VERSION: u8 = 2;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

const VERSION: u8 = 2;
const SET_FEATURES: u8 = 7;
const DEVICE: u16 = 1;
const MINOR: u16 = 2;
const CMD_STATUS: u16 = 7;
const DEVICE_ID: u16 = 8;
const SUPP_KERN_CMD_REPLY: u16 = 9;

/// What has happened to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was made; whoever enabled it waits.
    Added,
    /// It is being removed.
    Removed,
    /// Somebody wants its config or size changed.
    Reconfigured,
}

impl EventKind {
    fn of(command: u8) -> Option<Self> {
        match command {
            1 => Some(Self::Added),
            2 => Some(Self::Removed),
            3 => Some(Self::Reconfigured),
            _ => None,
        }
    }

    /// The command that answers it.
    fn done(self) -> u8 {
        match self {
            Self::Added => 4,
            Self::Removed => 5,
            Self::Reconfigured => 6,
        }
    }
}

/// Something the kernel wants an answer to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What has happened.
    pub kind: EventKind,
    /// The whole name of the uio device: `tcm-user/<hba>/<device>/<dev_config>`.
    pub device: String,
    /// Its number: N of /dev/uioN.
    pub minor: u32,
    /// To be put into the answer.
    pub device_id: u32,
}

/// A family's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Family {
    pub(super) id: u16,
    pub(super) group: u32,
}

/// A message to the kernel.
#[derive(Debug)]
pub(super) struct Request(Vec<u8>);

impl Request {
    fn new(family: u16, command: u8, version: u8) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(family.to_le_bytes());
        bytes.extend((NLM_F_REQUEST | NLM_F_ACK).to_le_bytes());
        // Sequence number, which it gets when it is sent, and port: the kernel knows who asks.
        bytes.extend([0; 8]);
        bytes.extend([command, version, 0, 0]);
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, data: &[u8]) -> Self {
        let len = ATTRIBUTE_HEADER_BYTES + data.len();
        self.0
            .extend(u16::try_from(len).unwrap_or(u16::MAX).to_le_bytes());
        self.0.extend(kind.to_le_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.finish()
    }

    fn finish(mut self) -> Self {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        for (to, from) in self.0.iter_mut().zip(len.to_le_bytes()) {
            *to = from;
        }
        self
    }

    /// With a number that its verdict will have.
    pub(super) fn numbered(mut self, sequence: u32) -> Self {
        let place = self.0.iter_mut().skip(SEQUENCE);
        for (to, from) in place.zip(sequence.to_le_bytes()) {
            *to = from;
        }
        self
    }

    pub(super) fn get_family(name: &str) -> Self {
        let terminated = format!("{name}\0");
        Self::new(CONTROL_FAMILY, CTRL_CMD_GETFAMILY, CONTROL_VERSION)
            .attribute(CTRL_ATTR_FAMILY_NAME, terminated.as_bytes())
    }

    pub(super) fn set_features(family: u16) -> Self {
        Self::new(family, SET_FEATURES, VERSION).attribute(SUPP_KERN_CMD_REPLY, &[1])
    }

    pub(super) fn answer(family: u16, event: &Event, status: i32) -> Self {
        Self::new(family, event.kind.done(), VERSION)
            .attribute(CMD_STATUS, &status.to_le_bytes())
            .attribute(DEVICE_ID, &event.device_id.to_le_bytes())
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// One message of a datagram.
#[derive(Debug, Clone, Copy)]
struct Message<'a> {
    kind: u16,
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    fn command(self) -> Option<u8> {
        self.bytes.get(NLMSG_HEADER_BYTES).copied()
    }

    fn attributes(self) -> Attributes<'a> {
        Attributes(self.bytes.get(HEADER_BYTES..).unwrap_or_default())
    }
}

/// The messages of a datagram.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let bytes = self.0.get(..len).filter(|_| len >= NLMSG_HEADER_BYTES)?;
        let kind = u16_at(bytes, 4)?;
        self.0 = self
            .0
            .get(bytes.len().next_multiple_of(4)..)
            .unwrap_or_default();
        Some(Message { kind, bytes })
    }
}

/// Attributes one after the other, with their types.
#[derive(Debug, Clone, Copy)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & ATTRIBUTE_TYPE;
        let data = self.0.get(ATTRIBUTE_HEADER_BYTES..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, data))
    }
}

impl<'a> Attributes<'a> {
    fn find(mut self, wanted: u16) -> Option<&'a [u8]> {
        self.find_map(|(kind, data)| (kind == wanted).then_some(data))
    }
}

/// The events in a datagram of `family`. One that lacks a part that its answer needs is none.
#[must_use]
pub fn events(datagram: &[u8], family: u16) -> Vec<Event> {
    let messages = Messages(datagram).filter(|message| message.kind == family);
    messages.filter_map(event).collect()
}

fn event(message: Message<'_>) -> Option<Event> {
    let attributes = message.attributes();
    Some(Event {
        kind: EventKind::of(message.command()?)?,
        device: text(attributes.find(DEVICE)?),
        minor: u32_at(attributes.find(MINOR)?, 0)?,
        device_id: u32_at(attributes.find(DEVICE_ID)?, 0)?,
    })
}

/// The numbers of a family and of its group, if the datagram tells them.
pub(super) fn family(datagram: &[u8], control: u16, group: &str) -> Option<Family> {
    let mut messages = Messages(datagram).filter(|message| message.kind == control);
    let attributes = messages.next()?.attributes();
    let groups = Attributes(attributes.find(CTRL_ATTR_MCAST_GROUPS)?);
    let named = |nested: Attributes<'_>| {
        let name = nested.find(CTRL_ATTR_MCAST_GRP_NAME)?;
        (text(name) == group).then(|| u32_at(nested.find(CTRL_ATTR_MCAST_GRP_ID)?, 0))?
    };
    Some(Family {
        id: u16_at(attributes.find(CTRL_ATTR_FAMILY_ID)?, 0)?,
        group: groups
            .map(|(_, nested)| Attributes(nested))
            .find_map(named)?,
    })
}

/// What has become of the request with this number, if the datagram is about that.
pub(super) fn verdict(datagram: &[u8], sequence: u32) -> Option<io::Result<()>> {
    let mut messages = Messages(datagram).filter(|message| {
        message.kind == NLMSG_ERROR && u32_at(message.bytes, SEQUENCE) == Some(sequence)
    });
    match u32_at(messages.next()?.bytes, NLMSG_HEADER_BYTES)?.cast_signed() {
        0 => Some(Ok(())),
        code => Some(Err(io::Error::from_raw_os_error(code.saturating_neg()))),
    }
}

fn text(data: &[u8]) -> String {
    let end = data.iter().position(|byte| *byte == 0);
    let data = data.get(..end.unwrap_or(data.len())).unwrap_or_default();
    String::from_utf8_lossy(data).into_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    bytes.try_into().ok().map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILY: u16 = 0x1f;

    /// As Linux 6.1 sends it when a device is enabled.
    fn added(device_id: u32) -> Vec<u8> {
        let message = Request::new(FAMILY, 1, VERSION)
            .attribute(DEVICE, b"tcm-user/1/a/overlaybd//a.json\0")
            .attribute(MINOR, &3_u32.to_le_bytes())
            .attribute(DEVICE_ID, &device_id.to_le_bytes());
        message.0
    }

    fn expected(device_id: u32) -> Event {
        Event {
            kind: EventKind::Added,
            device: "tcm-user/1/a/overlaybd//a.json".to_owned(),
            minor: 3,
            device_id,
        }
    }

    #[test]
    fn requests_are_the_bytes_that_the_kernel_knows() {
        let bytes = [
            28, 0, 0, 0, 16, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 2, 0, 0, 8, 0, 2, 0, b'a', b'b',
            b'c', 0,
        ];
        assert_eq!(Request::get_family("abc").bytes(), bytes);
        let features = Request::set_features(FAMILY);
        assert_eq!(
            features.bytes(),
            [
                28, 0, 0, 0, 0x1f, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 2, 0, 0, 5, 0, 9, 0, 1, 0,
                0, 0
            ]
        );
        let answer = Request::answer(FAMILY, &expected(7), -libc::ENOENT);
        assert_eq!(
            answer.bytes(),
            [
                36, 0, 0, 0, 0x1f, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 2, 0, 0, 8, 0, 7, 0, 0xfe,
                0xff, 0xff, 0xff, 8, 0, 8, 0, 7, 0, 0, 0
            ]
        );
    }

    #[test]
    fn several_events_of_one_datagram_are_found() {
        let datagram = [added(1), added(2)].concat();
        assert_eq!(events(&datagram, FAMILY), [expected(1), expected(2)]);
        assert!(events(&datagram, FAMILY + 1).is_empty());
    }

    #[test]
    fn a_datagram_that_is_cut_short_has_the_events_before_the_cut() {
        let datagram = [added(1), added(2)].concat();
        let first = added(1).len();
        for len in 0..datagram.len() {
            let found = events(&datagram[..len], FAMILY);
            assert_eq!(found.len(), usize::from(len >= first), "{len} bytes");
        }
    }

    #[test]
    fn a_message_shorter_than_its_header_ends_the_datagram() {
        for len in 0..16 {
            let mut short = vec![0; 16];
            short[0] = len;
            let datagram = [added(1), short, added(2)].concat();
            assert_eq!(events(&datagram, FAMILY), [expected(1)], "{len} bytes");
        }
    }

    #[test]
    fn an_attribute_shorter_than_its_header_ends_the_message() {
        for len in 0..4 {
            let mut bytes = added(1);
            bytes[HEADER_BYTES] = len;
            let datagram = [bytes, added(2)].concat();
            assert_eq!(events(&datagram, FAMILY), [expected(2)], "{len} bytes");
        }
    }

    #[test]
    fn an_event_that_lacks_a_part_is_none() {
        for missing in [DEVICE, MINOR, DEVICE_ID] {
            let mut message = Request::new(FAMILY, 2, VERSION);
            for (kind, data) in [
                (DEVICE, &b"uio3\0"[..]),
                (MINOR, &[3, 0, 0, 0]),
                (DEVICE_ID, &[9, 0, 0, 0]),
            ] {
                if kind != missing {
                    message = message.attribute(kind, data);
                }
            }
            assert!(events(message.bytes(), FAMILY).is_empty(), "{missing}");
        }
        let short = Request::new(FAMILY, 1, VERSION).attribute(MINOR, &[3, 0]);
        assert!(events(short.bytes(), FAMILY).is_empty());
    }

    #[test]
    fn the_group_is_found_by_its_name() {
        let nested = |name: &str, id: u32| {
            let name = attribute_bytes(CTRL_ATTR_MCAST_GRP_NAME, name.as_bytes());
            let id = attribute_bytes(CTRL_ATTR_MCAST_GRP_ID, &id.to_le_bytes());
            [name, id].concat()
        };
        let groups = [
            attribute_bytes(1, &nested("other\0", 4)),
            attribute_bytes(2, &nested("config\0", 0x0102_0304)),
        ]
        .concat();
        let answer = Request::new(CONTROL_FAMILY, 1, CONTROL_VERSION)
            .attribute(CTRL_ATTR_FAMILY_ID, &FAMILY.to_le_bytes())
            .attribute(CTRL_ATTR_MCAST_GROUPS, &groups);
        let found = family(answer.bytes(), CONTROL_FAMILY, "config");
        let expected = Family {
            id: FAMILY,
            group: 0x0102_0304,
        };
        assert_eq!(found, Some(expected));
        assert_eq!(family(answer.bytes(), CONTROL_FAMILY, "none"), None);
    }

    fn attribute_bytes(kind: u16, data: &[u8]) -> Vec<u8> {
        let request = Request::new(0, 0, 0).attribute(kind, data);
        request.0[HEADER_BYTES..].to_vec()
    }

    #[test]
    fn a_verdict_is_of_the_request_with_its_number() {
        let mut bytes = vec![36, 0, 0, 0, 2, 0, 0, 0, 7, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend((-libc::ENOENT).to_le_bytes());
        bytes.extend([0; 16]);
        let error = verdict(&bytes, 0x107).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert!(verdict(&bytes, 7).is_none(), "of another request");
        let after_an_event = [added(1), bytes.clone()].concat();
        assert!(verdict(&after_an_event, 0x107).unwrap().is_err());
        bytes[16..20].fill(0);
        verdict(&bytes, 0x107).unwrap().unwrap();
        assert!(verdict(&bytes[..18], 0x107).is_none(), "cut short");
        bytes[16..20].copy_from_slice(&i32::MIN.to_le_bytes());
        assert!(verdict(&bytes, 0x107).unwrap().is_err());
        assert!(verdict(&added(1), 0).is_none());
    }

    #[test]
    fn a_number_leaves_the_rest_of_a_request_as_it_is() {
        let plain = Request::set_features(FAMILY);
        let numbered = Request::set_features(FAMILY).numbered(0x0102_0304);
        assert_eq!(numbered.bytes()[8..12], [4, 3, 2, 1]);
        assert_eq!(numbered.bytes()[..8], plain.bytes()[..8]);
        assert_eq!(numbered.bytes()[12..], plain.bytes()[12..]);
    }
}
