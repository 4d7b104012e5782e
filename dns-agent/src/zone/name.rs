//! Domain names.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest label, in octets (RFC 1035 §2.3.4).
pub(crate) const MAX_LABEL: usize = 63;
/// The longest name in wire form, in octets, the root octet included (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;

/// A domain name in wire form, lower-cased, including the root octet (RFC 1035 §3.1).
///
/// ```text
/// +---+---+---+---+---+---+---+---+---+---+---+---+
/// | 3 | s   v   c | 5 | l   o   c   a   l | 0 |
/// +---+---+---+---+---+---+---+---+---+---+---+---+
/// ```
///
/// Two names are equal when DNS says they are: case was folded on the way in
/// (RFC 4343).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

/// Why something is not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No text at all; the root is written `.`.
    Empty,
    /// Two dots in a row, a leading dot, or an empty label in [`Name::child`].
    EmptyLabel,
    /// A label of more than 63 octets.
    LabelTooLong,
    /// More than 255 octets in wire form.
    NameTooLong,
    /// A character outside printable ASCII that is not written as `\DDD`.
    NotAscii,
    /// A backslash not followed by a character or by three digits up to 255.
    BadEscape,
    /// The wire form ends before the root octet.
    Truncated,
    /// The wire form goes on after the root octet.
    TrailingOctets,
    /// The wire form holds a compression pointer or a reserved label type.
    NotPlain,
}

impl Name {
    /// The name of no labels, which all names are below.
    pub fn root() -> Name {
        Name([0].into())
    }

    /// Reads presentation form: `a.b.c` or `a.b.c.`, with `\.` and `\DDD`
    /// escapes (RFC 1035 §5.1).
    pub fn parse(text: &str) -> Result<Name, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text == "." {
            return Ok(Name::root());
        }
        let mut wire = Vec::with_capacity(text.len() + 2);
        let mut label = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&octet, after)) = rest.split_first() {
            rest = after;
            match octet {
                b'.' => push_label(&mut wire, &std::mem::take(&mut label))?,
                b'\\' => {
                    let (escaped, after) = unescape(rest)?;
                    label.push(escaped);
                    rest = after;
                }
                b'!'..=b'~' => label.push(octet),
                _ => return Err(NameError::NotAscii),
            }
        }
        if !label.is_empty() {
            push_label(&mut wire, &label)?;
        }
        Name::finish(wire)
    }

    /// Reads wire form: exactly one uncompressed name, to the last octet.
    pub fn from_wire(wire: &[u8]) -> Result<Name, NameError> {
        if wire.len() > MAX_NAME {
            return Err(NameError::NameTooLong);
        }
        let mut rest = wire;
        loop {
            match rest {
                [] => return Err(NameError::Truncated),
                [0] => return Ok(Name(wire.to_ascii_lowercase().into())),
                [0, ..] => return Err(NameError::TrailingOctets),
                [length, ..] if usize::from(*length) > MAX_LABEL => {
                    return Err(NameError::NotPlain);
                }
                [length, after @ ..] => {
                    rest = after
                        .get(usize::from(*length)..)
                        .ok_or(NameError::Truncated)?;
                }
            }
        }
    }

    /// The uncompressed name that octets begin with, if they do.
    pub fn first(octets: &[u8]) -> Option<Name> {
        let mut at = 0;
        while let Some(length @ 1..) = octets.get(at) {
            at += 1 + usize::from(*length);
        }
        Name::from_wire(octets.get(..=at)?).ok()
    }

    /// The wire form, lower-cased, the root octet included.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels from left to right, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.suffixes()
            .map(|suffix| &suffix[1..=usize::from(suffix[0])])
    }

    /// The name without its leftmost label; `None` for the root.
    pub fn parent(&self) -> Option<Name> {
        let label = usize::from(self.0[0]);
        (label > 0).then(|| Name(self.0[1 + label..].into()))
    }

    /// The name with one label more on the left.
    pub fn child(&self, label: &[u8]) -> Result<Name, NameError> {
        let mut wire = Vec::with_capacity(1 + label.len() + self.0.len());
        push_label(&mut wire, label)?;
        wire.extend_from_slice(&self.0[..self.0.len() - 1]);
        Name::finish(wire)
    }

    /// Whether this name is `other` or somewhere below it.
    pub fn is_at_or_below(&self, other: &Name) -> bool {
        // The octets alone are not enough: a label may hold any octet, also one
        // that looks like a length.
        self.0.ends_with(&other.0)
            && (other.0.len() == 1 || self.suffixes().any(|suffix| suffix.len() == other.0.len()))
    }

    /// The wire form of the name, of its parent, and so on up to the last label;
    /// the root is left out.
    pub(super) fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let suffix = rest;
            let label = usize::from(suffix[0]);
            if label == 0 {
                return None;
            }
            rest = &suffix[1 + label..];
            Some(suffix)
        })
    }

    /// A name from short labels before an ending in lower-case wire form: the
    /// names of addresses, which are never too long.
    pub(super) fn from_labels<'a>(labels: impl Iterator<Item = &'a [u8]>, ending: &[u8]) -> Name {
        let mut wire = Vec::with_capacity(74);
        for label in labels {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label);
        }
        wire.extend_from_slice(ending);
        Name(wire.into())
    }

    /// A name from one of the [`Name::suffixes`] of another.
    pub(super) fn from_suffix(suffix: &[u8]) -> Name {
        Name(suffix.into())
    }

    fn finish(mut wire: Vec<u8>) -> Result<Name, NameError> {
        wire.push(0);
        if wire.len() > MAX_NAME {
            return Err(NameError::NameTooLong);
        }
        // Lengths are at most 63 and so never look like a capital letter.
        wire.make_ascii_lowercase();
        Ok(Name(wire.into()))
    }
}

/// Maps keyed by names are searched with suffixes of other names, without
/// making a name of them first.
impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Presentation form; what means something else in a master file is escaped
/// (RFC 1035 §5.1).
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &octet in label {
                match octet {
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => {
                        write!(f, "\\{}", char::from(octet))?;
                    }
                    b'!'..=b'~' => write!(f, "{}", char::from(octet))?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameError::Empty => "a domain name must not be empty; the root is written \".\"",
            NameError::EmptyLabel => "a label must not be empty",
            NameError::LabelTooLong => "a label is longer than 63 octets",
            NameError::NameTooLong => "the name is longer than 255 octets",
            NameError::NotAscii => "only printable ASCII is allowed; write other octets as \\DDD",
            NameError::BadEscape => "a backslash needs a character or three digits up to 255",
            NameError::Truncated => "the name ends before its root octet",
            NameError::TrailingOctets => "octets follow the root octet",
            NameError::NotPlain => "the name holds a compression pointer or a reserved label type",
        })
    }
}

impl std::error::Error for NameError {}

fn push_label(wire: &mut Vec<u8>, label: &[u8]) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > MAX_LABEL {
        return Err(NameError::LabelTooLong);
    }
    wire.push(label.len() as u8);
    wire.extend_from_slice(label);
    Ok(())
}

/// The octet that an escape stands for, and what follows the escape; `rest`
/// starts after the backslash.
fn unescape(rest: &[u8]) -> Result<(u8, &[u8]), NameError> {
    match rest {
        [
            a @ b'0'..=b'9',
            b @ b'0'..=b'9',
            c @ b'0'..=b'9',
            after @ ..,
        ] => {
            let value = [a, b, c]
                .iter()
                .fold(0u16, |value, digit| value * 10 + u16::from(**digit - b'0'));
            let octet = u8::try_from(value).map_err(|_| NameError::BadEscape)?;
            Ok((octet, after))
        }
        [b'0'..=b'9', ..] => Err(NameError::BadEscape),
        [octet @ b'!'..=b'~', after @ ..] => Ok((*octet, after)),
        _ => Err(NameError::BadEscape),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    #[test]
    fn presentation_and_wire_form() {
        assert_eq!(name("Svc.Local").wire(), b"\x03svc\x05local\0");
        assert_eq!(name("svc.local."), name("SVC.local"));
        assert_eq!(name(".").wire(), b"\0");
        assert_eq!(name(".").to_string(), ".");
        assert_eq!(name(r"a\.b.\007c\\").to_string(), r"a\.b.\007c\\.");
        assert_eq!(name(r"a\.b").wire(), b"\x03a.b\0");
    }

    #[test]
    fn what_is_no_name() {
        let long = "a".repeat(64);
        let deep = vec!["a"; 128].join(".");
        for (text, error) in [
            ("", NameError::Empty),
            ("a..b", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("a..", NameError::EmptyLabel),
            (long.as_str(), NameError::LabelTooLong),
            (deep.as_str(), NameError::NameTooLong),
            ("ä", NameError::NotAscii),
            ("a b", NameError::NotAscii),
            (r"a\25", NameError::BadEscape),
            (r"a\256", NameError::BadEscape),
            ("a\\", NameError::BadEscape),
        ] {
            assert_eq!(Name::parse(text), Err(error), "{text}");
        }
        for (wire, error) in [
            (&b""[..], NameError::Truncated),
            (b"\x01a", NameError::Truncated),
            (b"\x05a\0", NameError::Truncated),
            (b"\x01a\0\0", NameError::TrailingOctets),
            (b"\xc0\x0c", NameError::NotPlain),
            (b"\x40\0", NameError::NotPlain),
        ] {
            assert_eq!(Name::from_wire(wire), Err(error), "{wire:?}");
        }
        let widest = vec!["a"; 127].join(".");
        assert_eq!(name(&widest).wire().len(), 255);
        assert_eq!(name(&widest).child(b"a"), Err(NameError::NameTooLong));
        assert_eq!(Name::from_wire(&[1; 256]), Err(NameError::NameTooLong));
        assert_eq!(name("a").child(b""), Err(NameError::EmptyLabel));
    }

    #[test]
    fn family() {
        assert_eq!(name("b.c").child(b"A").unwrap(), name("a.b.c"));
        assert_eq!(name("a.b.c").parent(), Some(name("b.c")));
        assert_eq!(name("a").parent(), Some(name(".")));
        assert_eq!(name(".").parent(), None);
        assert!(name("a.b.c").is_at_or_below(&name("b.c")));
        assert!(name("b.c").is_at_or_below(&name("b.c")));
        assert!(name("b.c").is_at_or_below(&name(".")));
        assert!(!name("b.c").is_at_or_below(&name("a.b.c")));
        assert!(!name("ab.c").is_at_or_below(&name("b.c")));
        // The last octets are those of "b.c", but they are part of a label.
        assert!(!name(r"a\001b.c").is_at_or_below(&name("b.c")));
    }

    proptest! {
        #[test]
        fn names_survive_both_forms(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..10)) {
            let mut name = name(".");
            for label in &labels {
                name = name.child(label).unwrap();
            }
            prop_assert_eq!(&Name::parse(&name.to_string()).unwrap(), &name);
            prop_assert_eq!(&Name::from_wire(name.wire()).unwrap(), &name);
            prop_assert_eq!(name.labels().count(), labels.len());
        }

        #[test]
        fn any_octets_are_read_or_refused(wire in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Name::from_wire(&wire) {
                prop_assert!(wire.eq_ignore_ascii_case(name.wire()));
            }
        }
    }
}
