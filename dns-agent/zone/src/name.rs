//! Domain names.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest label, in bytes (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;
/// The longest name in wire form, in bytes, including the root label (RFC 1035 §2.3.4).
const MAX_NAME: usize = 255;

/// A domain name in wire form, lower-cased, including the root label (RFC 1035 §3.1).
///
/// ```text
/// +---+---+---+---+---+---+---+---+---+---+---+
/// | 3 | s   v   c | 5 | l   o   c   a   l | 0 |
/// +---+---+---+---+---+---+---+---+---+---+---+
/// ```
///
/// Equality ignores letter case (RFC 4343), because upper case is folded when a name is read. The
/// order is that of the wire form's bytes, and not the canonical order of DNSSEC.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<[u8]>);

/// The reason why a text or wire form is not a domain name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// An empty text. The root is written `.`.
    Empty,
    /// Two dots in a row, a leading dot, or an empty label in [`Name::child`].
    EmptyLabel,
    /// A label of more than 63 bytes.
    LabelTooLong,
    /// More than 255 bytes in wire form.
    NameTooLong,
    /// A space, or a character outside printable ASCII, that is not written as `\DDD`.
    NotAscii,
    /// A backslash that is followed neither by three digits up to 255 nor by another printable
    /// character.
    BadEscape,
    /// The wire form ends before the root label.
    Truncated,
    /// Bytes follow the root label.
    TrailingBytes,
    /// The wire form holds a compression pointer or a reserved label type.
    NotPlain,
}

impl Name {
    /// The root: the name without labels.
    pub fn root() -> Name {
        Name([0].into())
    }

    /// Reads presentation form: `a.b.c` or `a.b.c.`, with escapes such as `\.` and `\DDD` (RFC 1035
    /// §5.1). Folds upper case.
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
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                b'.' => push_label(&mut wire, &std::mem::take(&mut label))?,
                b'\\' => {
                    let (escaped, after) = unescape(rest)?;
                    label.push(escaped);
                    rest = after;
                }
                b'!'..=b'~' => label.push(byte),
                _ => return Err(NameError::NotAscii),
            }
        }
        if !label.is_empty() {
            push_label(&mut wire, &label)?;
        }
        Name::terminate(wire)
    }

    /// Reads wire form, which must be exactly one uncompressed name. Folds upper case.
    pub fn from_wire(wire: &[u8]) -> Result<Name, NameError> {
        if wire.len() > MAX_NAME {
            return Err(NameError::NameTooLong);
        }
        let mut rest = wire;
        loop {
            match rest {
                [] => return Err(NameError::Truncated),
                // Lengths are not changed: they are at most 63, and capital letters start at 65.
                [0] => return Ok(Name(wire.to_ascii_lowercase().into())),
                [0, ..] => return Err(NameError::TrailingBytes),
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

    /// The uncompressed name at the start of `bytes`, if there is one.
    pub fn from_wire_prefix(bytes: &[u8]) -> Option<Name> {
        let mut at = 0;
        while let Some(length @ 1..) = bytes.get(at) {
            at += 1 + usize::from(*length);
        }
        Name::from_wire(bytes.get(..=at)?).ok()
    }

    /// The wire form, lower-cased, including the root label.
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

    /// The name with `label` added on the left.
    pub fn child(&self, label: &[u8]) -> Result<Name, NameError> {
        let mut wire = Vec::with_capacity(1 + label.len() + self.0.len());
        push_label(&mut wire, label)?;
        wire.extend_from_slice(&self.0[..self.0.len() - 1]);
        Name::terminate(wire)
    }

    /// Whether this name equals `other` or is below it.
    pub fn is_at_or_below(&self, other: &Name) -> bool {
        // Comparing bytes is not enough, because a label may contain a byte that looks like a
        // length.
        self.0.ends_with(&other.0)
            && (other.0.len() == 1 || self.suffixes().any(|suffix| suffix.len() == other.0.len()))
    }

    /// The wire forms of the name, its parent, and so on. The root is left out.
    pub fn suffixes(&self) -> impl Iterator<Item = &[u8]> {
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

    /// The name of these labels, followed by `ending` in lower-case wire form. Only for reverse
    /// names: their labels have at most 3 bytes, and their wire form has at most 74 bytes.
    pub(super) fn from_labels<'a>(labels: impl Iterator<Item = &'a [u8]>, ending: &[u8]) -> Name {
        let mut wire = Vec::with_capacity(74);
        for label in labels {
            wire.push(label.len() as u8);
            wire.extend_from_slice(label);
        }
        wire.extend_from_slice(ending);
        Name(wire.into())
    }

    /// The name whose wire form is one of the [`Name::suffixes`] of another name.
    pub(super) fn from_suffix(suffix: &[u8]) -> Name {
        Name(suffix.into())
    }

    /// Appends the root label to the wire form of all other labels, checks the length and folds
    /// upper case.
    fn terminate(mut wire: Vec<u8>) -> Result<Name, NameError> {
        wire.push(0);
        if wire.len() > MAX_NAME {
            return Err(NameError::NameTooLong);
        }
        // Lengths are not changed, as in `from_wire`.
        wire.make_ascii_lowercase();
        Ok(Name(wire.into()))
    }
}

/// Allows look-ups by wire form, such as one of [`Name::suffixes`], in maps with names as keys.
impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// Writes presentation form. Characters with a special meaning in zone files are escaped (RFC 1035
/// §5.1).
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => {
                        write!(f, "\\{}", char::from(byte))?;
                    }
                    b'!'..=b'~' => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
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
            NameError::LabelTooLong => "a label is longer than 63 bytes",
            NameError::NameTooLong => "the name is longer than 255 bytes",
            NameError::NotAscii => {
                "only printable ASCII without spaces is allowed; write other bytes as \\DDD"
            }
            NameError::BadEscape => {
                "a backslash must be followed by three digits up to 255, or by a printable \
                 character other than a digit"
            }
            NameError::Truncated => "the name ends before its root label",
            NameError::TrailingBytes => "bytes follow the root label",
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

/// Reads an escape. `rest` starts after its backslash. Returns the byte that the escape stands for,
/// and the text after the escape.
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
            let byte = u8::try_from(value).map_err(|_| NameError::BadEscape)?;
            Ok((byte, after))
        }
        [b'0'..=b'9', ..] => Err(NameError::BadEscape),
        [byte @ b'!'..=b'~', after @ ..] => Ok((*byte, after)),
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
    fn names_are_read_and_written_in_presentation_form() {
        assert_eq!(name("Svc.Local").wire(), b"\x03svc\x05local\0");
        assert_eq!(name("svc.local."), name("SVC.local"));
        assert_eq!(name(".").wire(), b"\0");
        assert_eq!(name(".").to_string(), ".");
        assert_eq!(name(r"a\.b.\007c\\").to_string(), r"a\.b.\007c\\.");
        assert_eq!(name(r"a\.b").wire(), b"\x03a.b\0");
    }

    #[test]
    fn malformed_names_are_refused() {
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
            (b"\x01a\0\0", NameError::TrailingBytes),
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
    fn names_have_children_and_parents_and_are_below_their_ancestors() {
        assert_eq!(name("b.c").child(b"A").unwrap(), name("a.b.c"));
        assert_eq!(name("a.b.c").parent(), Some(name("b.c")));
        assert_eq!(name("a").parent(), Some(name(".")));
        assert_eq!(name(".").parent(), None);
        assert!(name("a.b.c").is_at_or_below(&name("b.c")));
        assert!(name("b.c").is_at_or_below(&name("b.c")));
        assert!(name("b.c").is_at_or_below(&name(".")));
        assert!(!name("b.c").is_at_or_below(&name("a.b.c")));
        assert!(!name("ab.c").is_at_or_below(&name("b.c")));
        // The last bytes are those of "b.c", but they are part of a label.
        assert!(!name(r"a\001b.c").is_at_or_below(&name("b.c")));
    }

    proptest! {
        #[test]
        fn names_survive_both_forms(
            labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..10)
        ) {
            let mut name = name(".");
            for label in &labels {
                name = name.child(label).unwrap();
            }
            prop_assert_eq!(&Name::parse(&name.to_string()).unwrap(), &name);
            prop_assert_eq!(&Name::from_wire(name.wire()).unwrap(), &name);
            prop_assert_eq!(name.labels().count(), labels.len());
        }

        #[test]
        fn any_bytes_are_read_or_refused(wire in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Name::from_wire(&wire) {
                prop_assert!(wire.eq_ignore_ascii_case(name.wire()));
            }
        }
    }
}
