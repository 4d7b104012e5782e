//! Rules that replace the name of a question, and restore it in the answer (CoreDNS,
//! `plugin/rewrite`).
//!
//! CoreDNS compares and replaces text: names in lower case, with a final dot.

use zerohop_zone::{Name, Rtype};

use crate::name_pattern::NamePattern;

/// A rule of `rewrite`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewriteStep {
    /// Replaces names.
    Name(NameRewrite, AfterMatch),
    /// Changes questions about names with this pattern, or their answers, in a way that can't be
    /// expressed.
    UnknownNames(NamePattern),
    /// As `UnknownNames`, for questions for this type.
    UnknownType(Rtype),
}

/// How names are replaced, and restored in answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameRewrite {
    /// This name is replaced by another one.
    Exact(Name, Box<str>),
    /// The end of names is replaced by another text.
    Suffix(Box<str>, Box<str>),
    /// Names with a pattern are replaced by a text in which `{1}` stands for the text of the first
    /// group.
    Regex(NamePattern, Box<str>),
}

/// What follows a rule that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterMatch {
    /// No other rule.
    Stop,
    /// The next rule, with the new name.
    Continue,
}

/// What rules do with a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RewriteEffect {
    /// None applies.
    Unchanged,
    /// One applies whose effect can't be expressed.
    Unknown,
    /// Another name is looked up.
    Rewritten(Rewriting),
}

/// Another name that is looked up instead of a question's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewriting {
    /// The other name.
    pub name: Name,
    /// How names in the answer are replaced, in the order of the rules.
    restorations: Vec<Restoration>,
}

/// How a name in the answer is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Restoration {
    /// The name, and the end of names below it, is replaced.
    Name { found: Box<str>, original: Box<str> },
    /// The end of names is replaced.
    Suffix { found: Box<str>, original: Box<str> },
}

/// Applies rules in their order.
pub(super) fn rewrite(steps: &[RewriteStep], name: &Name, rtype: Rtype) -> RewriteEffect {
    if steps.is_empty() {
        return RewriteEffect::Unchanged;
    }
    let mut current = name.clone();
    let mut restorations = Vec::new();
    for step in steps {
        let (rule, after) = match step {
            RewriteStep::UnknownNames(pattern) if pattern.matches(&current) => {
                return RewriteEffect::Unknown;
            }
            RewriteStep::UnknownType(unknown) if *unknown == rtype => {
                return RewriteEffect::Unknown;
            }
            RewriteStep::UnknownNames(_) | RewriteStep::UnknownType(_) => continue,
            RewriteStep::Name(rule, after) => (rule, *after),
        };
        let text = current.to_string();
        let Some((new, restoration)) = rule.apply(&current, &text) else {
            continue;
        };
        // With an escape, the text of CoreDNS may differ from this one.
        if text.contains('\\') {
            return RewriteEffect::Unknown;
        }
        let Ok(new) = Name::parse(&new) else {
            return RewriteEffect::Unknown;
        };
        current = new;
        restorations.push(restoration);
        if after == AfterMatch::Stop {
            break;
        }
    }
    if restorations.is_empty() {
        return RewriteEffect::Unchanged;
    }
    RewriteEffect::Rewritten(Rewriting {
        name: current,
        restorations,
    })
}

impl NameRewrite {
    /// The new text of a name, and how it is restored. `None` if the rule doesn't apply. `text` is
    /// the name's text.
    fn apply(&self, name: &Name, text: &str) -> Option<(String, Restoration)> {
        let by_name = |new: String| {
            let restoration = Restoration::Name {
                found: new.to_ascii_lowercase().into(),
                original: text.into(),
            };
            (new, restoration)
        };
        match self {
            NameRewrite::Exact(from, to) => (name == from).then(|| by_name(to.to_string())),
            NameRewrite::Suffix(from, to) => {
                let before = text.strip_suffix(&**from)?;
                let restoration = Restoration::Suffix {
                    found: to.clone(),
                    original: from.clone(),
                };
                Some((format!("{before}{to}"), restoration))
            }
            NameRewrite::Regex(pattern, to) => Some(by_name(pattern.expand(text, to)?)),
        }
    }
}

impl Rewriting {
    /// The name that stands in the answer instead of `name`.
    pub fn restore(&self, name: &Name) -> Name {
        let text = name.to_string();
        let mut restored = text.clone();
        // The last rule's change is undone first.
        for restoration in self.restorations.iter().rev() {
            if let Some(text) = restoration.apply(&restored) {
                restored = text;
            }
        }
        if restored == text {
            return name.clone();
        }
        // A name that would be too long stays as it is.
        Name::parse(&restored).unwrap_or_else(|_| name.clone())
    }
}

impl Restoration {
    fn apply(&self, text: &str) -> Option<String> {
        match self {
            Restoration::Name { found, original } => {
                let before = text.strip_suffix(&**found)?;
                let is_label_end = before.is_empty() || before.ends_with('.');
                is_label_end.then(|| format!("{before}{original}"))
            }
            Restoration::Suffix { found, original } => {
                let before = text.strip_suffix(&**found)?;
                Some(format!("{before}{original}"))
            }
        }
    }
}
