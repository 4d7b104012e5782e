//! Splits response bodies into objects while they arrive. Memory holds only the last chunk and, if
//! an object began in an earlier chunk, the beginning of that object.

use std::ops::Range;

use serde::Deserialize;

use super::api_server::Failure;

/// A response is refused if an object is incomplete after this many bytes. This is far above the
/// 1.5 MiB to which etcd limits requests by default.
const MAX_OBJECT: usize = 32 << 20;

/// Splits a list's body: `{"metadata": {"resourceVersion": …}, "items": […]}`.
#[derive(Debug, Default)]
pub(super) struct ListSplitter {
    buffer: StreamBuffer,
    scan: ValueScan,
    position: ListPosition,
    /// The list's resource version. Empty until it has arrived.
    version: String,
}

/// Splits a watch's body, which has one event per line.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    buffer: StreamBuffer,
    /// Number of unread bytes that have been searched and hold no line feed.
    searched: usize,
}

/// The token expected next in a list's body.
#[derive(Clone, Copy, Debug, Default)]
enum ListPosition {
    #[default]
    Start,
    /// A member of the list's object, or the end of the object.
    Key,
    Colon(ListMember),
    Value(ListMember),
    /// An item, or the end of the items.
    Item,
    /// Only white space, because the list's object has ended.
    End,
}

/// A member of the list's JSON object.
#[derive(Clone, Copy, Debug)]
enum ListMember {
    Metadata,
    Items,
    Other,
}

impl ListSplitter {
    /// Adds a chunk of the body.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.buffer.push(bytes)
    }

    /// The JSON of the next item. `None` if more of the body must arrive, or the list has ended.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        let item = self.next_item_range()?;
        Ok(item.map(|item| &self.buffer.bytes[item]))
    }

    /// The list's resource version.
    ///
    /// # Errors
    /// When the list is incomplete or has no version.
    pub(super) fn finish(self) -> Result<String, Failure> {
        match self.position {
            ListPosition::End if self.version.is_empty() => Err(Failure::broken(
                "the response is not a list: it has no resource version",
            )),
            ListPosition::End => Ok(self.version),
            _ => Err(Failure::broken("the list broke off")),
        }
    }

    fn next_item_range(&mut self) -> Result<Option<Range<usize>>, Failure> {
        // Commas are skipped like white space. So missing and surplus commas are accepted, which
        // does no harm, because values are found without them.
        while let Some(byte) = self.buffer.skip(b" \t\r\n,") {
            match (self.position, byte) {
                (ListPosition::Start, b'{') => {
                    self.buffer.start += 1;
                    self.position = ListPosition::Key;
                }
                (ListPosition::Key, b'}') => {
                    self.buffer.start += 1;
                    self.position = ListPosition::End;
                }
                (ListPosition::Key, b'"') => {
                    let Some(key) = self.take_value()? else { break };
                    self.position =
                        ListPosition::Colon(ListMember::from_key(&self.buffer.bytes[key]));
                }
                (ListPosition::Colon(member), b':') => {
                    self.buffer.start += 1;
                    self.position = ListPosition::Value(member);
                }
                (ListPosition::Value(ListMember::Items), b'[') => {
                    self.buffer.start += 1;
                    self.position = ListPosition::Item;
                }
                // Also `"items": null`, an empty list.
                (ListPosition::Value(member), _) => {
                    let Some(value) = self.take_value()? else {
                        break;
                    };
                    if matches!(member, ListMember::Metadata) {
                        self.version = parse_version(&self.buffer.bytes[value])?;
                    }
                    self.position = ListPosition::Key;
                }
                (ListPosition::Item, b']') => {
                    self.buffer.start += 1;
                    self.position = ListPosition::Key;
                }
                (ListPosition::Item, _) => {
                    let item = self.take_value()?;
                    return Ok(item);
                }
                (
                    ListPosition::Start
                    | ListPosition::Key
                    | ListPosition::Colon(_)
                    | ListPosition::End,
                    _,
                ) => {
                    return Err(Failure::broken(
                        "the response is not a list: it isn't a single JSON object",
                    ));
                }
            }
        }
        Ok(None)
    }

    /// The value at the start of the unread bytes, or `None` until the value has arrived
    /// completely.
    fn take_value(&mut self) -> Result<Option<Range<usize>>, Failure> {
        let start = self.buffer.start;
        let Some(length) = self.scan.end(&self.buffer.bytes[start..]) else {
            return Ok(None);
        };
        if length == 0 {
            return Err(Failure::broken(
                "the response is not a list: a value is missing",
            ));
        }
        self.scan = ValueScan::default();
        self.buffer.start += length;
        Ok(Some(start..start + length))
    }
}

impl LineSplitter {
    /// Adds a chunk of the body.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.buffer.push(bytes)
    }

    /// The next line without its line feed, or `None` until the line has arrived completely. Skips
    /// empty lines.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        if self.searched == 0 {
            self.buffer.skip(b" \t\r\n");
        }
        let start = self.buffer.start;
        let unsearched = &self.buffer.bytes[start + self.searched..];
        let Some(length) = unsearched.iter().position(|byte| *byte == b'\n') else {
            self.searched += unsearched.len();
            return None;
        };
        let end = start + self.searched + length;
        self.buffer.start = end + 1;
        self.searched = 0;
        Some(&self.buffer.bytes[start..end])
    }

    /// Checks that the body ended after a complete line.
    ///
    /// # Errors
    /// When the last line is incomplete.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        match self.buffer.skip(b" \t\r\n") {
            None => Ok(()),
            Some(_) => Err(Failure::broken("the watch broke off within an event")),
        }
    }
}

impl ListMember {
    fn from_key(key: &[u8]) -> ListMember {
        match key {
            br#""metadata""# => ListMember::Metadata,
            br#""items""# => ListMember::Items,
            _ => ListMember::Other,
        }
    }
}

/// The bytes that have arrived. Consumed bytes are removed with the next chunk.
#[derive(Debug, Default)]
struct StreamBuffer {
    bytes: Vec<u8>,
    /// Number of consumed bytes.
    start: usize,
}

impl StreamBuffer {
    fn push(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.bytes.drain(..self.start);
        self.start = 0;
        if self.bytes.len() > MAX_OBJECT {
            return Err(Failure::broken(
                "the response holds an object of more than 32 MiB",
            ));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Consumes leading bytes that are in `unwanted`. Returns the next byte without consuming it.
    fn skip(&mut self, unwanted: &[u8]) -> Option<u8> {
        let rest = &self.bytes[self.start..];
        let skipped = rest.iter().position(|byte| !unwanted.contains(byte));
        self.start += skipped.unwrap_or(rest.len());
        self.bytes.get(self.start).copied()
    }
}

/// Finds the end of a JSON value, and resumes when more bytes arrive.
#[derive(Debug, Default)]
struct ValueScan {
    /// Number of bytes that have been scanned.
    seen: usize,
    /// Number of open braces and brackets.
    depth: usize,
    string: StringState,
}

/// The position of a scan relative to JSON strings.
#[derive(Clone, Copy, Debug, Default)]
enum StringState {
    #[default]
    Outside,
    Inside,
    /// After a backslash.
    Escaped,
}

impl ValueScan {
    /// The length of the value at the start of `bytes`, or `None` until the value is complete. 0 if
    /// a delimiter stands in the place of the value. Each call must pass the bytes of the previous
    /// call, followed by new ones.
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        for &byte in bytes.get(self.seen..)? {
            let before = self.seen;
            self.seen += 1;
            match (self.string, byte) {
                (StringState::Escaped, _) => self.string = StringState::Inside,
                (StringState::Inside, b'\\') => self.string = StringState::Escaped,
                (StringState::Inside, b'"') => {
                    self.string = StringState::Outside;
                    if self.depth == 0 {
                        return Some(self.seen);
                    }
                }
                (StringState::Inside, _) => {}
                (StringState::Outside, b'"') => self.string = StringState::Inside,
                (StringState::Outside, b'{' | b'[') => self.depth += 1,
                (StringState::Outside, b'}' | b']') if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(self.seen);
                    }
                }
                // The end of a number, or of a word such as null.
                (StringState::Outside, b'}' | b']' | b',' | b' ' | b'\t' | b'\r' | b'\n')
                    if self.depth == 0 =>
                {
                    return Some(before);
                }
                (StringState::Outside, _) => {}
            }
        }
        None
    }
}

/// The resource version in a list's metadata.
fn parse_version(metadata: &[u8]) -> Result<String, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct ListMetadata {
        resource_version: String,
    }
    serde_json::from_slice(metadata)
        .map(|ListMetadata { resource_version }| resource_version)
        .map_err(|error| Failure::broken(format!("the response is not a list: metadata: {error}")))
}

#[cfg(test)]
mod tests;
