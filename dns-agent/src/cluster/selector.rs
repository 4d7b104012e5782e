//! Label selectors: which objects are meant, by their labels.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::objects::Object;

/// An object's labels.
pub type Labels = BTreeMap<String, String>;

/// Which objects make records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selectors {
    /// The Namespaces that are exposed.
    pub namespaces: Selector,
    /// The Services, EndpointSlices and Pods that make records.
    pub objects: Selector,
}

/// Conditions on an object's labels, all of which must hold; the default has none
/// and selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

/// A condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

/// What must hold for a label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operator {
    Exists,
    DoesNotExist,
    In(Vec<String>),
    /// Holds also without the label.
    NotIn(Vec<String>),
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorError(String);

impl Selectors {
    /// Whether an object with these labels makes records.
    pub fn select(&self, object: &Object, labels: &Labels) -> bool {
        match object {
            Object::Namespace(_) => self.namespaces.matches(labels),
            Object::Service(_) | Object::EndpointSlice(_) | Object::Pod(_) => {
                self.objects.matches(labels)
            }
            Object::Fact(_) => true,
        }
    }
}

impl Selector {
    /// Whether all conditions hold for these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| requirement.holds(labels))
    }

    /// Whether all conditions hold for these labels, whatever others there are beside them.
    pub(super) fn matches_at_least(&self, labels: &Labels) -> bool {
        let mut requirements = self.0.iter();
        requirements
            .all(|requirement| labels.contains_key(&requirement.key) && requirement.holds(labels))
    }

    /// Whether no other label than this one decides.
    pub(super) fn is_only_about(&self, key: &str) -> bool {
        self.0.iter().all(|requirement| requirement.key == key)
    }

    /// A selector as objects hold it.
    ///
    /// # Errors
    /// Says what makes no sense.
    pub(super) fn of(selector: LabelSelector) -> Result<Selector, String> {
        let labels = selector.match_labels.unwrap_or_default().into_iter();
        let labels = labels.map(|(key, value)| {
            let operator = Operator::In(vec![value]);
            Ok(Requirement { key, operator })
        });
        let expressions = selector.match_expressions.unwrap_or_default().into_iter();
        let requirements = labels.chain(expressions.map(Requirement::of));
        Ok(Selector(requirements.collect::<Result<_, _>>()?))
    }
}

impl Requirement {
    fn of(requirement: LabelSelectorRequirement) -> Result<Requirement, String> {
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
                    "{other:?} is no operator: it is In, NotIn, Exists or DoesNotExist"
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

/// Reads the syntax of `kubectl --selector`: `key=value`, `key==value`,
/// `key!=value`, `key in (a, b)`, `key notin (a, b)`, `key`, `!key`, and any of
/// them with commas between.
impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Selector, SelectorError> {
        let mut reader = Reader { text, rest: text };
        let mut requirements = vec![reader.requirement()?];
        while reader.take(",") {
            requirements.push(reader.requirement()?);
        }
        match reader.rest.trim_start() {
            "" => Ok(Selector(requirements)),
            _ => Err(reader.expected("a comma or the end")),
        }
    }
}

/// Writes what the API server reads as a `labelSelector`, and [`Selector::from_str`] too. Nothing stands
/// for a selector without conditions.
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

/// Reads a selector from left to right.
struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        if self.take("!") {
            let key = self.key()?;
            let operator = Operator::DoesNotExist;
            return Ok(Requirement { key, operator });
        }
        let key = self.key()?;
        let operator = if self.take("!=") {
            Operator::NotIn(vec![self.value()?])
        } else if self.take("==") || self.take("=") {
            Operator::In(vec![self.value()?])
        } else {
            match self.word() {
                "" => Operator::Exists,
                "in" => Operator::In(self.values()?),
                "notin" => Operator::NotIn(self.values()?),
                other => {
                    let reason = format!("{other:?} is no operator: use =, ==, !=, in or notin");
                    return Err(self.error(&reason));
                }
            }
        };
        Ok(Requirement { key, operator })
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        if !self.take("(") {
            return Err(self.expected("a list of values in parentheses"));
        }
        let mut values = vec![self.value()?];
        while self.take(",") {
            values.push(self.value()?);
        }
        if !self.take(")") {
            return Err(self.expected("a comma or a closing parenthesis"));
        }
        Ok(values)
    }

    /// A label's key: a name of up to 63 octets, perhaps behind a domain and a slash.
    fn key(&mut self) -> Result<String, SelectorError> {
        let key = self.word();
        if key.is_empty() {
            return Err(self.expected("a label's key"));
        }
        let (domain, name) = match key.split_once('/') {
            None => (None, key),
            Some((domain, name)) => (Some(domain), name),
        };
        if !is_name(name) || domain.is_some_and(|domain| !is_domain(domain)) {
            let reason = format!(
                "{key:?} is no label's key: up to 63 letters, digits, -, _ and ., perhaps after a domain in lower case and a /"
            );
            return Err(self.error(&reason));
        }
        Ok(key.to_owned())
    }

    /// A label's value, which may be empty.
    fn value(&mut self) -> Result<String, SelectorError> {
        let value = self.word();
        if !value.is_empty() && !is_name(value) {
            let reason = format!(
                "{value:?} is no label's value: up to 63 letters, digits, -, _ and ., with a letter or digit at either end"
            );
            return Err(self.error(&reason));
        }
        Ok(value.to_owned())
    }

    /// The octets up to white space or a sign.
    fn word(&mut self) -> &'a str {
        let start = self.rest.trim_start();
        let is_end = |c: char| c.is_whitespace() || ",()=!".contains(c);
        let (word, rest) = start.split_at(start.find(is_end).unwrap_or(start.len()));
        self.rest = rest;
        word
    }

    fn take(&mut self, sign: &str) -> bool {
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
    let octets = text.as_bytes();
    let inside = |octet: &u8| octet.is_ascii_alphanumeric() || b"-_.".contains(octet);
    octets.len() <= 63
        && octets.first().is_some_and(u8::is_ascii_alphanumeric)
        && octets.last().is_some_and(u8::is_ascii_alphanumeric)
        && octets.iter().all(inside)
}

fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_lower = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit();
        let octets = label.as_bytes();
        octets.first().copied().is_some_and(is_lower)
            && octets.last().copied().is_some_and(is_lower)
            && (octets.iter()).all(|octet| is_lower(*octet) || *octet == b'-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
