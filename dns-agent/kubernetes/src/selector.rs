//! Label selectors, which choose objects by their labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube_core::labels::{self, Expression, SelectorExt as _};

/// The label that holds a Namespace's name. Every Namespace has it since Kubernetes 1.22.
pub(super) const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";
/// What an allocation takes in bytes besides its contents, about.
const ALLOCATION_MEMORY: usize = 16;
/// The fewest values in a node of a set, except for the last one.
const VALUES_PER_NODE: usize = 5;
/// The memory of a node of a set of values in bytes, with an equal share of the nodes above it.
const NODE_MEMORY: usize = 320;

/// An object's labels.
pub type Labels = BTreeMap<String, String>;

/// Conditions on an object's labels. A selector selects the objects for which all conditions hold.
/// The default has no conditions and selects every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Box<[Expression]>);

/// Why a text is not a selector, as a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError(String);

impl Selector {
    /// Whether all conditions hold for these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|expression| expression.matches(labels))
    }

    /// Whether the selector matches every object that has these labels, whatever other labels the
    /// object has.
    pub(super) fn matches_at_least(&self, labels: &Labels) -> bool {
        let has_label = |expression| labels.contains_key(key(expression));
        self.0.iter().all(has_label) && self.matches(labels)
    }

    /// Whether the selector matches no object that has these labels, whatever other labels the
    /// object has.
    pub(super) fn excludes_all_with(&self, labels: &Labels) -> bool {
        let mut known = self.0.iter();
        known.any(|expression| labels.contains_key(key(expression)) && !expression.matches(labels))
    }

    /// Whether every condition is about the label `name`.
    pub(super) fn is_only_about(&self, name: &str) -> bool {
        self.0.iter().all(|expression| key(expression) == name)
    }

    /// The memory that the conditions take in bytes, about.
    pub(super) fn memory(&self) -> usize {
        let text = |text: &String| ALLOCATION_MEMORY + text.len();
        let values = |expression: &Expression| match expression {
            Expression::Exists(_) | Expression::DoesNotExist(_) => 0,
            Expression::Equal(_, value) | Expression::NotEqual(_, value) => text(value),
            Expression::In(_, values) | Expression::NotIn(_, values) => {
                let texts: usize = values.iter().map(text).sum();
                values.len().div_ceil(VALUES_PER_NODE) * NODE_MEMORY + texts
            }
        };
        let expressions = self.0.iter();
        expressions
            .map(|it| size_of::<Expression>() + text(key(it)) + values(it))
            .sum()
    }

    /// Converts a selector from the API's form.
    ///
    /// # Errors
    /// Returns the reason if a condition has an unknown operator, or lacks the field `values` that
    /// its operator needs.
    pub(super) fn from_api(selector: LabelSelector) -> Result<Selector, String> {
        let labels = selector.match_labels.unwrap_or_default().into_iter();
        let labels = labels.map(|(key, value)| Ok(Expression::Equal(key, value)));
        let requirements = selector.match_expressions.unwrap_or_default().into_iter();
        let expressions = labels.chain(requirements.map(expression_from_api));
        Ok(Selector(expressions.collect::<Result<_, _>>()?))
    }
}

fn expression_from_api(requirement: LabelSelectorRequirement) -> Result<Expression, String> {
    let (key, operator) = (requirement.key.clone(), requirement.operator.clone());
    requirement.try_into().map_err(|_| {
        format!(
            "{operator:?} for the label {key:?} is not an operator, or has no values: use In or \
             NotIn with values, or Exists or DoesNotExist"
        )
    })
}

/// The label that a condition is about.
fn key(expression: &Expression) -> &String {
    match expression {
        Expression::Exists(key)
        | Expression::DoesNotExist(key)
        | Expression::Equal(key, _)
        | Expression::NotEqual(key, _)
        | Expression::In(key, _)
        | Expression::NotIn(key, _) => key,
    }
}

/// Parses the syntax of `kubectl --selector`, except `<`, `>` and the empty text: `key=value`,
/// `key==value`, `key!=value`, `key in (a, b)`, `key notin (a, b)`, `key`, `!key`, and
/// comma-separated lists of these.
impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Selector, SelectorError> {
        let mut parser = SelectorParser { text, rest: text };
        let mut expressions = vec![parser.parse_expression()?];
        while parser.accept(",") {
            expressions.push(parser.parse_expression()?);
        }
        match parser.rest.trim_start() {
            "" => Ok(Selector(expressions.into())),
            _ => Err(parser.missing("a comma or the end")),
        }
    }
}

/// Writes the form that the API server accepts as `labelSelector`. A selector without conditions
/// becomes the empty string, which [`Selector::from_str`] rejects.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        labels::Selector::from_iter(self.0.iter().cloned()).fmt(f)
    }
}

impl fmt::Display for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SelectorError {}

/// Parses a selector from left to right.
struct SelectorParser<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> SelectorParser<'a> {
    fn parse_expression(&mut self) -> Result<Expression, SelectorError> {
        if self.accept("!") {
            return Ok(Expression::DoesNotExist(self.parse_key()?));
        }
        let key = self.parse_key()?;
        if self.accept("!=") {
            return Ok(Expression::NotEqual(key, self.parse_value()?));
        }
        if self.accept("==") || self.accept("=") {
            return Ok(Expression::Equal(key, self.parse_value()?));
        }
        match self.parse_word() {
            "" => Ok(Expression::Exists(key)),
            "in" => Ok(Expression::In(key, self.parse_values()?)),
            "notin" => Ok(Expression::NotIn(key, self.parse_values()?)),
            other => {
                let reason = format!("{other:?} is not an operator: use =, ==, !=, in or notin");
                Err(self.error(&reason))
            }
        }
    }

    fn parse_values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if !self.accept("(") {
            return Err(self.missing("a list of values in parentheses"));
        }
        let mut values = BTreeSet::from([self.parse_value()?]);
        while self.accept(",") {
            values.insert(self.parse_value()?);
        }
        if !self.accept(")") {
            return Err(self.missing("a comma or a closing parenthesis"));
        }
        Ok(values)
    }

    /// Reads a label's key: a name of up to 63 bytes, with an optional domain and slash before it.
    fn parse_key(&mut self) -> Result<String, SelectorError> {
        let key = self.parse_word();
        if key.is_empty() {
            return Err(self.missing("a label key"));
        }
        let (domain, name) = match key.split_once('/') {
            None => (None, key),
            Some((domain, name)) => (Some(domain), name),
        };
        if !is_name(name) || domain.is_some_and(|domain| !is_domain(domain)) {
            let reason = format!(
                "{key:?} is not a label key: use up to 63 letters, digits, -, _ and ., with a \
                 letter or digit at either end, optionally after a lower-case domain and a /"
            );
            return Err(self.error(&reason));
        }
        Ok(key.to_owned())
    }

    /// Reads a label's value, which may be empty.
    fn parse_value(&mut self) -> Result<String, SelectorError> {
        let value = self.parse_word();
        if !value.is_empty() && !is_name(value) {
            let reason = format!(
                "{value:?} is not a label value: use up to 63 letters, digits, -, _ and ., with a letter or digit at either end"
            );
            return Err(self.error(&reason));
        }
        Ok(value.to_owned())
    }

    /// Reads the text up to white space or one of `,()=!`.
    fn parse_word(&mut self) -> &'a str {
        let start = self.rest.trim_start();
        let is_end = |c: char| c.is_whitespace() || ",()=!".contains(c);
        let (word, rest) = start.split_at(start.find(is_end).unwrap_or(start.len()));
        self.rest = rest;
        word
    }

    /// Skips `sign` if it comes next, after any white space. Returns whether it does.
    fn accept(&mut self, sign: &str) -> bool {
        let Some(rest) = self.rest.trim_start().strip_prefix(sign) else {
            return false;
        };
        self.rest = rest;
        true
    }

    fn missing(&self, element: &str) -> SelectorError {
        match self.rest.trim_start() {
            "" => self.error(&format!("{element} is missing at the end")),
            rest => self.error(&format!("{element} is missing before {rest:?}")),
        }
    }

    fn error(&self, reason: &str) -> SelectorError {
        let text = self.text;
        SelectorError(format!(
            "{text:?} is not a label selector ({reason}): give one such as \"app=web,tier!=test\" or \"env in (a,b),!hidden\""
        ))
    }
}

/// Whether a text can be a label's value, or the name in a label's key.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(is_inner)
}

/// Whether a text can be the domain in a label's key.
fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_outer = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = label.as_bytes();
        bytes.first().copied().is_some_and(is_outer)
            && bytes.last().copied().is_some_and(is_outer)
            && (bytes.iter()).all(|byte| is_outer(*byte) || *byte == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
