//! Label selectors, which choose objects by their labels.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

/// An object's labels.
pub type Labels = BTreeMap<String, String>;

/// Conditions on an object's labels, all of which must hold. The default has no condition and
/// selects every object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

/// The condition on a label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Exists,
    DoesNotExist,
    In(Vec<String>),
    /// Also holds if the label is absent.
    NotIn(Vec<String>),
}

/// Why a text is not a selector, as a sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError(String);

impl Selector {
    /// Whether all conditions hold for these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    /// Whether all conditions hold for every object that has at least these labels.
    pub(super) fn matches_at_least(&self, labels: &Labels) -> bool {
        let mut requirements = self.0.iter();
        requirements
            .all(|requirement| labels.contains_key(&requirement.key) && requirement.holds(labels))
    }

    /// Whether every condition is about the label `key`.
    pub(super) fn is_only_about(&self, key: &str) -> bool {
        self.0.iter().all(|requirement| requirement.key == key)
    }

    /// Converts a selector from the API's form.
    ///
    /// # Errors
    /// Returns the reason if a condition has an unknown operator.
    pub(super) fn from_api(selector: LabelSelector) -> Result<Selector, String> {
        let labels = selector.match_labels.unwrap_or_default().into_iter();
        let labels = labels.map(|(key, value)| {
            let operator = Operator::In(vec![value]);
            Ok(Requirement { key, operator })
        });
        let expressions = selector.match_expressions.unwrap_or_default().into_iter();
        let requirements = labels.chain(expressions.map(Requirement::from_api));
        Ok(Selector(requirements.collect::<Result<_, _>>()?))
    }
}

impl Requirement {
    fn from_api(requirement: LabelSelectorRequirement) -> Result<Requirement, String> {
        let LabelSelectorRequirement {
            key,
            operator,
            values,
        } = requirement;
        let values = values.unwrap_or_default();
        let operator = match operator.as_str() {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => {
                return Err(format!(
                    "{other:?} is not an operator: use In, NotIn, Exists or DoesNotExist"
                ));
            }
        };
        Ok(Requirement { key, operator })
    }

    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match &self.operator {
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::In(values) => value.is_some_and(|value| values.contains(value)),
            Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
        }
    }
}

/// Parses the syntax of `kubectl --selector`: `key=value`, `key==value`, `key!=value`,
/// `key in (a, b)`, `key notin (a, b)`, `key`, `!key`, and comma-separated lists of these.
impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Selector, SelectorError> {
        let mut reader = SelectorParser { text, rest: text };
        let mut requirements = vec![reader.parse_requirement()?];
        while reader.accept(",") {
            requirements.push(reader.parse_requirement()?);
        }
        match reader.rest.trim_start() {
            "" => Ok(Selector(requirements)),
            _ => Err(reader.expected("a comma or the end")),
        }
    }
}

/// Writes the form that the API server accepts as `labelSelector`, and that [`Selector::from_str`]
/// parses. A selector without conditions becomes the empty string.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requirement { key, operator } = self;
        match operator {
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::In(values) => match values.as_slice() {
                [value] => write!(f, "{key}={value}"),
                values => write!(f, "{key} in ({})", values.join(",")),
            },
            Operator::NotIn(values) => match values.as_slice() {
                [value] => write!(f, "{key}!={value}"),
                values => write!(f, "{key} notin ({})", values.join(",")),
            },
        }
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
    fn parse_requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.accept("!") {
            let key = self.parse_key()?;
            let operator = Operator::DoesNotExist;
            return Ok(Requirement { key, operator });
        }
        let key = self.parse_key()?;
        let operator = if self.accept("!=") {
            Operator::NotIn(vec![self.parse_value()?])
        } else if self.accept("==") || self.accept("=") {
            Operator::In(vec![self.parse_value()?])
        } else {
            match self.parse_word() {
                "" => Operator::Exists,
                "in" => Operator::In(self.parse_values()?),
                "notin" => Operator::NotIn(self.parse_values()?),
                other => {
                    let reason =
                        format!("{other:?} is not an operator: use =, ==, !=, in or notin");
                    return Err(self.error(&reason));
                }
            }
        };
        Ok(Requirement { key, operator })
    }

    fn parse_values(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.accept("(") {
            return Err(self.expected("a list of values in parentheses"));
        }
        let mut values = vec![self.parse_value()?];
        while self.accept(",") {
            values.push(self.parse_value()?);
        }
        if !self.accept(")") {
            return Err(self.expected("a comma or a closing parenthesis"));
        }
        Ok(values)
    }

    /// A label's key: a name of up to 63 bytes, with an optional domain and slash before it.
    fn parse_key(&mut self) -> Result<String, SelectorError> {
        let key = self.parse_word();
        if key.is_empty() {
            return Err(self.expected("a label key"));
        }
        let (domain, name) = match key.split_once('/') {
            None => (None, key),
            Some((domain, name)) => (Some(domain), name),
        };
        if !is_name(name) || domain.is_some_and(|domain| !is_domain(domain)) {
            let reason = format!(
                "{key:?} is not a label key: use up to 63 letters, digits, -, _ and ., optionally after a lower-case domain and a /"
            );
            return Err(self.error(&reason));
        }
        Ok(key.to_owned())
    }

    /// A label's value, which may be empty.
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

    /// The text up to white space or one of `,()=!`.
    fn parse_word(&mut self) -> &'a str {
        let start = self.rest.trim_start();
        let is_end = |c: char| c.is_whitespace() || ",()=!".contains(c);
        let (word, rest) = start.split_at(start.find(is_end).unwrap_or(start.len()));
        self.rest = rest;
        word
    }

    fn accept(&mut self, sign: &str) -> bool {
        let Some(rest) = self.rest.trim_start().strip_prefix(sign) else {
            return false;
        };
        self.rest = rest;
        true
    }

    fn expected(&self, what: &str) -> SelectorError {
        match self.rest.trim_start() {
            "" => self.error(&format!("{what} is missing at the end")),
            rest => self.error(&format!("{what} is missing before {rest:?}")),
        }
    }

    fn error(&self, reason: &str) -> SelectorError {
        let text = self.text;
        SelectorError(format!(
            "{text:?} is not a label selector ({reason}): give one such as \"app=web,tier!=test\" or \"env in (a,b),!hidden\""
        ))
    }
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(is_inner)
}

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
