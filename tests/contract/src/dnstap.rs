//! An independent reader of dnstap messages and of the frames that carry them, and a collector that
//! uses it.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::IpAddr,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

/// The content type of dnstap.
const CONTENT_TYPE: &str = "protobuf:dnstap.Dnstap";
const ACCEPT: u32 = 1;
const START: u32 = 2;
const STOP: u32 = 3;
const READY: u32 = 4;
const FINISH: u32 = 5;

/// A frame of Frame Streams.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamFrame {
    /// The type and the content types of a control frame.
    Control(u32, Vec<String>),
    /// A data frame.
    Data(Vec<u8>),
}

/// The fields of a dnstap message.
#[derive(Debug, PartialEq, Eq)]
pub struct CollectedMessage {
    /// The name of the node.
    pub identity: Option<String>,
    /// The program.
    pub version: Option<String>,
    /// `Message.Type`, such as 5 for `CLIENT_QUERY`.
    pub kind: u64,
    /// 1 for IPv4, 2 for IPv6.
    pub family: u64,
    /// 1 for UDP, 2 for TCP, 3 for DNS over TLS.
    pub protocol: u64,
    /// Address and port of the sender of the query.
    pub query_end: (IpAddr, u64),
    /// Address and port of the receiver of the query.
    pub response_end: (IpAddr, u64),
    /// Since 1970.
    pub query_time: Duration,
    /// Since 1970. `None` for a query.
    pub response_time: Option<Duration>,
    /// The DNS query. `None` for a response.
    pub query: Option<Vec<u8>>,
    /// The DNS response. `None` for a query.
    pub response: Option<Vec<u8>>,
}

/// What a collector receives.
#[derive(Debug, PartialEq, Eq)]
pub enum CollectorEvent {
    /// A stream has begun.
    Started,
    /// A message.
    Message(Box<CollectedMessage>),
    /// The stream has ended with STOP, and the collector has sent FINISH.
    Stopped,
    /// The stream has ended without STOP, or breaks a rule.
    Broken(String),
}

/// How a collector treats the streams that it receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CollectorManner {
    /// It reads all messages.
    Reading,
    /// It closes the connection after this number of messages, and its socket too.
    LeavingAfter(usize),
    /// It begins the stream, and reads nothing then.
    Stalled,
}

/// Listens at a Unix socket, and receives streams one after the other. The thread ends with the
/// test.
///
/// # Errors
/// When the socket can't be made.
pub fn collect(path: &Path, manner: CollectorManner) -> io::Result<Receiver<CollectorEvent>> {
    let listener = UnixListener::bind(path)?;
    let (sender, events) = channel();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            if let Err(error) = receive_stream(&mut stream, manner, &sender) {
                let _ = sender.send(CollectorEvent::Broken(format!("{error:#}")));
            }
            if manner != CollectorManner::Reading {
                return;
            }
        }
    });
    Ok(events)
}

fn receive_stream(
    stream: &mut UnixStream,
    manner: CollectorManner,
    events: &Sender<CollectorEvent>,
) -> Result<()> {
    let types = vec![CONTENT_TYPE.to_owned()];
    let ready = read_frame(stream)?;
    ensure!(
        ready == StreamFrame::Control(READY, types.clone()),
        "{ready:?}"
    );
    stream.write_all(&control(ACCEPT, &[CONTENT_TYPE]))?;
    let start = read_frame(stream)?;
    ensure!(start == StreamFrame::Control(START, types), "{start:?}");
    events.send(CollectorEvent::Started)?;
    if manner == CollectorManner::Stalled {
        loop {
            thread::park();
        }
    }
    let mut messages = 0;
    while manner != CollectorManner::LeavingAfter(messages) {
        match read_frame(stream)? {
            StreamFrame::Data(data) => {
                let message = CollectedMessage::read(&data)?;
                events.send(CollectorEvent::Message(Box::new(message)))?;
                messages += 1;
            }
            StreamFrame::Control(STOP, _) => {
                stream.write_all(&control(FINISH, &[]))?;
                events.send(CollectorEvent::Stopped)?;
                return Ok(());
            }
            frame @ StreamFrame::Control(..) => bail!("a control frame in the stream: {frame:?}"),
        }
    }
    Ok(())
}

/// A control frame.
#[must_use]
pub fn control(kind: u32, content_types: &[&str]) -> Vec<u8> {
    let mut content = kind.to_be_bytes().to_vec();
    for text in content_types {
        content.extend(1_u32.to_be_bytes());
        content.extend((text.len() as u32).to_be_bytes());
        content.extend(text.as_bytes());
    }
    let length = (content.len() as u32).to_be_bytes();
    [&[0; 4], &length[..], &content].concat()
}

/// Reads a frame.
///
/// # Errors
/// When the stream ends or the frame is malformed.
pub fn read_frame(stream: &mut impl Read) -> Result<StreamFrame> {
    let length = read_u32(stream)?;
    if length > 0 {
        return Ok(StreamFrame::Data(read_bytes(stream, length)?));
    }
    let length = read_u32(stream)?;
    let content = read_bytes(stream, length)?;
    let mut rest = content.as_slice();
    let kind = read_u32(&mut rest)?;
    let mut types = Vec::new();
    while !rest.is_empty() {
        ensure!(read_u32(&mut rest)? == 1, "an unknown field");
        let length = read_u32(&mut rest)?;
        types.push(String::from_utf8(read_bytes(&mut rest, length)?)?);
    }
    Ok(StreamFrame::Control(kind, types))
}

fn read_u32(stream: &mut impl Read) -> Result<u32> {
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_bytes(stream: &mut impl Read, length: u32) -> Result<Vec<u8>> {
    ensure!(length < 1 << 20, "a frame of {length} bytes");
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The value of a protobuf field.
#[derive(Clone, Debug)]
enum FieldValue {
    Number(u64),
    Bytes(Vec<u8>),
}

/// The fields of a protobuf message by their numbers. Each may occur once.
struct ProtobufFields(BTreeMap<u64, FieldValue>);

impl ProtobufFields {
    fn read(mut bytes: &[u8]) -> Result<ProtobufFields> {
        let mut fields = BTreeMap::new();
        while !bytes.is_empty() {
            let tag = take_varint(&mut bytes)?;
            let value = match tag & 7 {
                0 => FieldValue::Number(take_varint(&mut bytes)?),
                2 => {
                    let length = take_varint(&mut bytes)? as usize;
                    FieldValue::Bytes(take(&mut bytes, length)?.to_vec())
                }
                5 => {
                    let fixed = take(&mut bytes, 4)?.first_chunk().context("4 bytes")?;
                    FieldValue::Number(u32::from_le_bytes(*fixed).into())
                }
                other => bail!("the wire type {other}"),
            };
            let before = fields.insert(tag >> 3, value);
            ensure!(before.is_none(), "the field {} comes twice", tag >> 3);
        }
        Ok(ProtobufFields(fields))
    }

    fn number(&mut self, field: u64) -> Result<Option<u64>> {
        match self.0.remove(&field) {
            None => Ok(None),
            Some(FieldValue::Number(number)) => Ok(Some(number)),
            Some(other) => bail!("the field {field} is {other:?}"),
        }
    }

    fn bytes(&mut self, field: u64) -> Result<Option<Vec<u8>>> {
        match self.0.remove(&field) {
            None => Ok(None),
            Some(FieldValue::Bytes(bytes)) => Ok(Some(bytes)),
            Some(other) => bail!("the field {field} is {other:?}"),
        }
    }

    fn text(&mut self, field: u64) -> Result<Option<String>> {
        Ok(self.bytes(field)?.map(String::from_utf8).transpose()?)
    }

    /// An address and a port.
    fn end(&mut self, address: u64, port: u64) -> Result<(IpAddr, u64)> {
        let bytes = self.bytes(address)?.context("no address")?;
        let port = self.number(port)?.context("no port")?;
        let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
        let address = v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from));
        Ok((address.context("not an address")?, port))
    }

    fn time(&mut self, seconds: u64, nanoseconds: u64) -> Result<Option<Duration>> {
        let seconds = self.number(seconds)?;
        let nanoseconds = self.number(nanoseconds)?;
        Ok(match (seconds, nanoseconds) {
            (None, None) => None,
            (Some(seconds), Some(nanoseconds)) => {
                Some(Duration::new(seconds, u32::try_from(nanoseconds)?))
            }
            _ => bail!("half a time"),
        })
    }

    fn assert_empty(&self) -> Result<()> {
        ensure!(self.0.is_empty(), "unknown fields {:?}", self.0.keys());
        Ok(())
    }
}

impl CollectedMessage {
    /// Reads a data frame.
    ///
    /// # Errors
    /// When a field is missing, unknown or malformed.
    pub fn read(data: &[u8]) -> Result<CollectedMessage> {
        let mut outer = ProtobufFields::read(data)?;
        ensure!(outer.number(15)? == Some(1), "not a message");
        let inner = outer.bytes(14)?.context("no message")?;
        let mut inner = ProtobufFields::read(&inner)?;
        let message = CollectedMessage {
            identity: outer.text(1)?,
            version: outer.text(2)?,
            kind: inner.number(1)?.context("no type")?,
            family: inner.number(2)?.context("no family")?,
            protocol: inner.number(3)?.context("no protocol")?,
            query_end: inner.end(4, 6)?,
            response_end: inner.end(5, 7)?,
            query_time: inner.time(8, 9)?.context("no time")?,
            query: inner.bytes(10)?,
            response_time: inner.time(12, 13)?,
            response: inner.bytes(14)?,
        };
        outer.assert_empty()?;
        inner.assert_empty()?;
        Ok(message)
    }
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    bail!("a number of more than 64 bits")
}

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    bytes
        .split_off(..count)
        .context("the message ends too early")
}
