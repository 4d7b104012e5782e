//! Patterns of names, as in rules of CoreDNS's plugins `rewrite` and `template`.

use regex::Regex;
use zerohop_zone::Name;

/// A pattern of names. It is compared with a name in lower case, with a final dot, as CoreDNS does.
#[derive(Clone, Debug)]
pub enum NamePattern {
    /// This name.
    Exact(Name),
    /// Names that begin with this text.
    Prefix(Box<str>),
    /// Names that end with this text.
    Suffix(Box<str>),
    /// Names that contain this text.
    Substring(Box<str>),
    /// Names in which this expression matches somewhere. For names of ASCII characters, Go's
    /// expressions and those of the crate `regex` have the same meaning, apart from syntax that
    /// only one of them accepts, and from [operators of classes](has_class_operator).
    Regex(Regex),
}

impl NamePattern {
    /// Reads an expression in Go's syntax.
    ///
    /// # Errors
    /// If the expression can't be read, or has another meaning in Go, with the reason.
    pub fn from_regex(text: &str) -> Result<NamePattern, String> {
        if has_class_operator(text) {
            return Err("a class has an operator or another class".to_owned());
        }
        // Go reads these as other characters.
        if ["\\<", "\\>", "\\b{"].iter().any(|it| text.contains(it)) {
            return Err("it has an assertion that Go doesn't have".to_owned());
        }
        let regex = Regex::new(text).map_err(|error| error.to_string())?;
        Ok(NamePattern::Regex(regex))
    }

    /// Whether a name has the pattern.
    pub fn matches(&self, name: &Name) -> bool {
        if let NamePattern::Exact(expected) = self {
            return name == expected;
        }
        let name = name.to_string();
        match self {
            NamePattern::Exact(_) => false,
            NamePattern::Prefix(prefix) => name.starts_with(&**prefix),
            NamePattern::Suffix(suffix) => name.ends_with(&**suffix),
            NamePattern::Substring(text) => name.contains(&**text),
            NamePattern::Regex(regex) => regex.is_match(&name),
        }
    }

    /// A copy of `template` in which `{0}`, `{1}` … are replaced by the text of the expression's
    /// groups in the name. `None` if the name doesn't have the pattern, or if this is not an
    /// expression.
    pub(super) fn expand(&self, name: &str, template: &str) -> Option<String> {
        let NamePattern::Regex(regex) = self else {
            return None;
        };
        let groups = regex.captures(name)?;
        let mut text = template.to_owned();
        for (index, group) in groups.iter().enumerate() {
            let group = group.map_or("", |group| group.as_str());
            text = text.replace(&format!("{{{index}}}"), group);
        }
        Some(text)
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &NamePattern) -> bool {
        match (self, other) {
            (NamePattern::Exact(one), NamePattern::Exact(other)) => one == other,
            (NamePattern::Prefix(one), NamePattern::Prefix(other))
            | (NamePattern::Suffix(one), NamePattern::Suffix(other))
            | (NamePattern::Substring(one), NamePattern::Substring(other)) => one == other,
            (NamePattern::Regex(one), NamePattern::Regex(other)) => one.as_str() == other.as_str(),
            (
                NamePattern::Exact(_)
                | NamePattern::Prefix(_)
                | NamePattern::Suffix(_)
                | NamePattern::Substring(_)
                | NamePattern::Regex(_),
                _,
            ) => false,
        }
    }
}

impl Eq for NamePattern {}

/// Whether a class of characters, such as `[a-z]`, may have an operator or another class inside,
/// which Go reads as characters.
fn has_class_operator(text: &str) -> bool {
    let mut chars = text.chars().peekable();
    let mut is_inside = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                chars.next();
            }
            '[' if is_inside && chars.peek() != Some(&':') => return true,
            '[' => {
                is_inside = true;
                // A bracket that comes first is a character of the class.
                chars.next_if_eq(&'^');
                chars.next_if_eq(&']');
            }
            ']' => is_inside = false,
            '&' | '-' | '~' if is_inside && chars.peek() == Some(&c) => return true,
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_that_go_reads_differently_are_refused() {
        for text in [
            r"^[a-w&&x]+\.",
            "[a--b]",
            "[a~~b]",
            "[a[b]]",
            "[[a]",
            "x(",
            "[]a[b]",
            r"\<a",
        ] {
            assert!(NamePattern::from_regex(text).is_err(), "{text}");
        }
        for text in [
            r"^[a-z-]+\.",
            "[[:alpha:]-]*",
            r"[\[&]",
            "a&&b--c",
            "[^a-z]",
        ] {
            assert!(NamePattern::from_regex(text).is_ok(), "{text}");
        }
    }
}
