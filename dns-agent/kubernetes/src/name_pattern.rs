//! Patterns of names, as in rules of CoreDNS's plugin `rewrite`.

use regex::Regex;
use zerohop_zone::Name;

/// A pattern of names. It is compared with a name in lower case, with a final dot, as CoreDNS does.
#[derive(Clone, Debug)]
pub enum NamePattern {
    /// Names that begin with this text.
    Prefix(Box<str>),
    /// Names that contain this text.
    Substring(Box<str>),
    /// Names in which this expression matches somewhere. Go's expressions and those of the crate
    /// `regex` have the same meaning for names of ASCII characters, apart from syntax that only one
    /// of them accepts.
    Regex(Regex),
}

impl NamePattern {
    /// Reads an expression in Go's syntax.
    ///
    /// # Errors
    /// If the expression can't be read, with the reason.
    pub fn from_regex(text: &str) -> Result<NamePattern, String> {
        let regex = Regex::new(text).map_err(|error| error.to_string())?;
        Ok(NamePattern::Regex(regex))
    }

    /// Whether a name has the pattern.
    pub(super) fn matches(&self, name: &Name) -> bool {
        let name = name.to_string();
        match self {
            NamePattern::Prefix(prefix) => name.starts_with(&**prefix),
            NamePattern::Substring(text) => name.contains(&**text),
            NamePattern::Regex(regex) => regex.is_match(&name),
        }
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &NamePattern) -> bool {
        match (self, other) {
            (NamePattern::Prefix(one), NamePattern::Prefix(other))
            | (NamePattern::Substring(one), NamePattern::Substring(other)) => one == other,
            (NamePattern::Regex(one), NamePattern::Regex(other)) => one.as_str() == other.as_str(),
            (NamePattern::Prefix(_) | NamePattern::Substring(_) | NamePattern::Regex(_), _) => {
                false
            }
        }
    }
}

impl Eq for NamePattern {}
