//! Cuts bodies into objects while they arrive, so that no more than one object has to be held.

use std::ops::Range;

use serde::Deserialize;

use super::api::Failure;

/// No object is nearly as large: etcd refuses more than 1.5 MiB by default.
const MAX_PIECE: usize = 32 << 20;

/// A list's body: `{"metadata": {"resourceVersion": …}, "items": […]}`.
#[derive(Debug, Default)]
pub(super) struct ListPieces {
    buffer: Buffer,
    scan: Scan,
    place: Place,
    version: String,
}

/// A watch's body: an event a line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Buffer,
    /// The octets of the buffer that are known to hold no line's end.
    searched: usize,
}

/// What comes next in a list's body.
#[derive(Clone, Copy, Debug, Default)]
enum Place {
    #[default]
    Start,
    Key,
    Colon(Member),
    Value(Member),
    Item,
    End,
}

/// A member of a list's object, by its key.
#[derive(Clone, Copy, Debug)]
enum Member {
    Metadata,
    Items,
    Other,
}

impl ListPieces {
    /// Adds what arrived.
    pub(super) fn push(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.buffer.push(octets)
    }

    /// The JSON of the next item, once all of it is there.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        let item = self.advance()?;
        Ok(item.map(|item| &self.buffer.octets[item]))
    }

    /// The list's version, when all of the list has been there.
    pub(super) fn finish(self) -> Result<String, Failure> {
        match self.place {
            Place::End if self.version.is_empty() => {
                Err(Failure::broken("the answer is no list: it has no version"))
            }
            Place::End => Ok(self.version),
            _ => Err(Failure::broken("the list broke off")),
        }
    }

    fn advance(&mut self) -> Result<Option<Range<usize>>, Failure> {
        // What may stand between two values is taken to do so: each item is read on its own.
        while let Some(octet) = self.buffer.skip(b" \t\r\n,") {
            match (self.place, octet) {
                (Place::Start, b'{') => {
                    self.buffer.start += 1;
                    self.place = Place::Key;
                }
                (Place::Key, b'}') => {
                    self.buffer.start += 1;
                    self.place = Place::End;
                }
                (Place::Key, b'"') => {
                    let Some(key) = self.value()? else { break };
                    self.place = Place::Colon(Member::of(&self.buffer.octets[key]));
                }
                (Place::Colon(member), b':') => {
                    self.buffer.start += 1;
                    self.place = Place::Value(member);
                }
                (Place::Value(Member::Items), b'[') => {
                    self.buffer.start += 1;
                    self.place = Place::Item;
                }
                (Place::Value(member), _) => {
                    let Some(value) = self.value()? else { break };
                    if matches!(member, Member::Metadata) {
                        self.version = version(&self.buffer.octets[value])?;
                    }
                    self.place = Place::Key;
                }
                (Place::Item, b']') => {
                    self.buffer.start += 1;
                    self.place = Place::Key;
                }
                (Place::Item, _) => {
                    let item = self.value()?;
                    return Ok(item);
                }
                (Place::Start | Place::Key | Place::Colon(_) | Place::End, _) => {
                    return Err(Failure::broken("the answer is no list: it isn't JSON"));
                }
            }
        }
        Ok(None)
    }

    /// The value that starts here, once all of it is there.
    fn value(&mut self) -> Result<Option<Range<usize>>, Failure> {
        let start = self.buffer.start;
        let Some(length) = self.scan.end(&self.buffer.octets[start..]) else {
            return Ok(None);
        };
        if length == 0 {
            return Err(Failure::broken("the answer is no list: a value is missing"));
        }
        self.scan = Scan::default();
        self.buffer.start += length;
        Ok(Some(start..start + length))
    }
}

impl Lines {
    /// Adds what arrived.
    pub(super) fn push(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.buffer.push(octets)
    }

    /// The next line, without its end, once all of it is there. Empty ones are left out.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        if self.searched == 0 {
            self.buffer.skip(b" \t\r\n");
        }
        let start = self.buffer.start;
        let unsearched = &self.buffer.octets[start + self.searched..];
        let Some(length) = unsearched.iter().position(|octet| *octet == b'\n') else {
            self.searched += unsearched.len();
            return None;
        };
        let end = start + self.searched + length;
        self.buffer.start = end + 1;
        self.searched = 0;
        Some(&self.buffer.octets[start..end])
    }

    /// Nothing more will come: a piece of a line is a sign that the connection broke.
    pub(super) fn finish(mut self) -> Result<(), Failure> {
        match self.buffer.skip(b" \t\r\n") {
            None => Ok(()),
            Some(_) => Err(Failure::broken("the watch broke off within an event")),
        }
    }
}

impl Member {
    fn of(key: &[u8]) -> Member {
        match key {
            br#""metadata""# => Member::Metadata,
            br#""items""# => Member::Items,
            _ => Member::Other,
        }
    }
}

/// What arrived and was not used yet.
#[derive(Debug, Default)]
struct Buffer {
    octets: Vec<u8>,
    /// The octets before this one are used.
    start: usize,
}

impl Buffer {
    fn push(&mut self, octets: &[u8]) -> Result<(), Failure> {
        self.octets.drain(..self.start);
        self.start = 0;
        if self.octets.len() > MAX_PIECE {
            return Err(Failure::broken(
                "the answer holds an object of more than 32 MiB",
            ));
        }
        self.octets.extend_from_slice(octets);
        Ok(())
    }

    /// Uses these octets up, as far as they come next. What comes after them.
    fn skip(&mut self, unwanted: &[u8]) -> Option<u8> {
        let rest = &self.octets[self.start..];
        let skipped = rest.iter().position(|octet| !unwanted.contains(octet));
        self.start += skipped.unwrap_or(rest.len());
        self.octets.get(self.start).copied()
    }
}

/// Looks for the end of a JSON value. Remembers how far it came.
#[derive(Debug, Default)]
struct Scan {
    seen: usize,
    depth: usize,
    text: Text,
}

/// Where a scan is, as far as texts go.
#[derive(Clone, Copy, Debug, Default)]
enum Text {
    #[default]
    Outside,
    Inside,
    /// Behind a backslash.
    Escaped,
}

impl Scan {
    /// The length of the value that these octets start with, once all of it is there. The octets must be
    /// those of the last time, with others after them.
    fn end(&mut self, octets: &[u8]) -> Option<usize> {
        for &octet in octets.get(self.seen..)? {
            let before = self.seen;
            self.seen += 1;
            match (self.text, octet) {
                (Text::Escaped, _) => self.text = Text::Inside,
                (Text::Inside, b'\\') => self.text = Text::Escaped,
                (Text::Inside, b'"') => {
                    self.text = Text::Outside;
                    if self.depth == 0 {
                        return Some(self.seen);
                    }
                }
                (Text::Inside, _) => {}
                (Text::Outside, b'"') => self.text = Text::Inside,
                (Text::Outside, b'{' | b'[') => self.depth += 1,
                (Text::Outside, b'}' | b']') if self.depth > 0 => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Some(self.seen);
                    }
                }
                // The end of a number, or of a word such as null.
                (Text::Outside, b'}' | b']' | b',' | b' ' | b'\t' | b'\r' | b'\n')
                    if self.depth == 0 =>
                {
                    return Some(before);
                }
                (Text::Outside, _) => {}
            }
        }
        None
    }
}

/// The version in a list's metadata.
fn version(metadata: &[u8]) -> Result<String, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        resource_version: String,
    }
    serde_json::from_slice(metadata)
        .map(|Metadata { resource_version }| resource_version)
        .map_err(|error| Failure::broken(format!("the answer is no list: metadata: {error}")))
}

#[cfg(test)]
mod tests;
