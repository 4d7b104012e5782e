//! Parses a hosts file.

use std::{collections::HashSet, net::IpAddr};

use zerohop_zone::{MAX_LABEL, Name};

/// The largest hosts file that is read, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;

/// The most records of one file: pairs of an address and a name, counted line by line.
const MAX_PAIRS: usize = 1 << 18;

/// The most problems that are kept. Others are counted.
const MAX_KEPT_PROBLEMS: usize = 100;

/// The contents of a hosts file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostsFile {
    pub(super) lines: Vec<HostsLine>,
    /// The first lines that can't be used.
    pub(super) problems: Vec<LineProblem>,
    /// The number of lines that can't be used.
    pub(super) count_problems: usize,
}

/// A usable line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostsLine {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) names: Vec<Name>,
}

/// A line that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LineProblem {
    /// Counted from 1.
    pub(super) line: usize,
    /// The reason, as a clause for the operator.
    pub(super) reason: String,
}

impl HostsFile {
    /// Parses the text of a file. A line that can't be used is skipped.
    #[must_use]
    pub fn parse(text: &[u8]) -> HostsFile {
        // A byte order mark, as some editors write.
        let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
        let mut file = HostsFile::default();
        let mut pairs = 0;
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let number = index + 1;
            match parse_line(number, line) {
                Ok(None) => {}
                Ok(Some(line)) if pairs + line.count_pairs() <= MAX_PAIRS => {
                    pairs += line.count_pairs();
                    file.lines.push(line);
                }
                Ok(Some(_)) => file.skip_line(
                    number,
                    format!(
                        "the file has more than {MAX_PAIRS} pairs of an address and a name, which is the \
                         most that is read"
                    ),
                ),
                Err(reason) => file.skip_line(number, reason),
            }
        }
        file
    }

    /// The number of different names.
    pub(super) fn count_names(&self) -> usize {
        let names = self.lines.iter().flat_map(|line| &line.names);
        names.collect::<HashSet<_>>().len()
    }

    fn skip_line(&mut self, line: usize, reason: String) {
        self.count_problems += 1;
        if self.problems.len() < MAX_KEPT_PROBLEMS {
            self.problems.push(LineProblem { line, reason });
        }
    }
}

impl HostsLine {
    fn count_pairs(&self) -> usize {
        self.addresses.len().saturating_mul(self.names.len())
    }

    /// Whether the line gives this address to this name.
    pub(super) fn has(&self, name: &Name, address: IpAddr) -> bool {
        self.names.contains(name) && self.addresses.contains(&address)
    }
}

/// Parses the line with this number. `None` for a line without any field.
fn parse_line(number: usize, line: &[u8]) -> Result<Option<HostsLine>, String> {
    // A comment may have any bytes.
    let fields = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    let fields = std::str::from_utf8(fields).map_err(|_| "it is not UTF-8".to_owned())?;
    let (mut addresses, mut names) = (Vec::new(), Vec::new());
    for field in fields.split_ascii_whitespace() {
        match field.parse::<IpAddr>() {
            Ok(address) if names.is_empty() => addresses.push(address.to_canonical()),
            Ok(_) => return Err(format!("the address {field} comes after a name")),
            Err(_) if addresses.is_empty() => return Err(why_no_address(field)),
            Err(_) => names.push(parse_name(field)?),
        }
    }
    if addresses.is_empty() {
        return Ok(None);
    }
    if names.is_empty() {
        return Err("no name follows the address".to_owned());
    }
    Ok(Some(HostsLine {
        number,
        addresses,
        names,
    }))
}

/// Why a field at the start of a line is no address.
fn why_no_address(field: &str) -> String {
    match field.split_once('%') {
        Some((address, _)) if address.parse::<IpAddr>().is_ok() => {
            format!("the address {field} has an interface, which DNS records can't hold")
        }
        _ => format!("{field:?} is not an IP address, and a line starts with one"),
    }
}

/// A name of letters, digits, `-` and `_` in its labels, with or without a dot at its end.
fn parse_name(field: &str) -> Result<Name, String> {
    let bare = field.strip_suffix('.').unwrap_or(field);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_label =
        |label: &str| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(is_allowed);
    // A mistyped address is not a name. No top-level domain is a number (RFC 3696 section 2).
    let last = bare.rsplit('.').next().unwrap_or_default();
    if bare.contains('.') && last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!(
            "{field:?} is neither an IP address nor a host name"
        ));
    }
    if !bare.split('.').all(is_label) {
        return Err(format!(
            "{field:?} is not a host name: its labels need 1 to {MAX_LABEL} letters, digits, \
             hyphens or underscores"
        ));
    }
    Name::parse(bare).map_err(|error| format!("{field:?} is not a host name: {error}"))
}
