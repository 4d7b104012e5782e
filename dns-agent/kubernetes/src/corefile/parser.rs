//! Splits a Corefile into server blocks and directives as CoreDNS's parser does
//! (github.com/coredns/caddy, `caddyfile/parse.go`). This parser is stricter where the meaning for
//! plugins would be unclear, and doesn't detect every error that CoreDNS detects.
//!
//! `imports` has replaced `import` lines and variables where it could. This parser fails if the
//! zones of a server block are incomplete. [`Corefile::unread_problems`] and
//! [`Directive::check_complete`] report other places where text is missing.

use std::fmt;

use super::finding::CorefileProblem;
use super::imports::{self, has_variable, is_snippet_name};
use super::place::Place;
use super::words::{CorefileWord, LineStart};
use crate::coredns_config::CoreDnsConfig;

/// A parsed Corefile.
pub(super) struct Corefile {
    /// The server blocks, in their order.
    pub(super) blocks: Vec<ParsedBlock>,
    /// The `import` lines outside server blocks.
    pub(super) imports: Vec<CorefileLine>,
}

/// A server block with unparsed keys.
pub(super) struct ParsedBlock {
    pub(super) keys: Vec<BlockKeyText>,
    pub(super) directives: Vec<Directive>,
}

/// A server block's key: a zone with an optional scheme and port.
pub(super) struct BlockKeyText {
    pub(super) text: String,
    pub(super) place: Place,
}

/// A plugin's line, and the lines in its braces.
pub(super) struct Directive {
    /// The first line: the plugin's name and arguments.
    pub(super) head: CorefileLine,
    /// The lines in the plugin's braces. Nested braces are ordinary words.
    pub(super) body: Vec<CorefileLine>,
}

/// A line's words: a name and arguments.
pub(super) struct CorefileLine {
    pub(super) place: Place,
    words: Vec<String>,
    /// For an `import` that Zerohop can't follow: the reason, as a clause.
    unread: Option<String>,
}

impl Corefile {
    /// Parses a Corefile, and the files that it imports.
    pub(super) fn parse(config: &CoreDnsConfig) -> Result<Corefile, CorefileProblem> {
        let words = imports::read_words(config)?;
        let has_inclusion = |word: &CorefileWord| word.text == "import" || has_variable(&word.text);
        Parser {
            is_whole: !words.iter().any(has_inclusion),
            words,
            at: 0,
        }
        .parse_corefile()
    }

    /// The problems with imports outside server blocks.
    pub(super) fn unread_problems(&self) -> impl Iterator<Item = CorefileProblem> {
        self.imports.iter().map(CorefileLine::unread_problem)
    }
}

impl Directive {
    /// The plugin's name.
    pub(super) fn name(&self) -> &str {
        self.head.name()
    }

    /// Fails if CoreDNS replaces a line, or a part of it, with the text of a file, of a snippet or
    /// of an environment variable.
    pub(super) fn check_complete(&self) -> Result<(), CorefileProblem> {
        let mut lines = std::iter::once(&self.head).chain(&self.body);
        let unread = lines.find(|line| {
            line.name() == "import" || line.words.iter().any(|word| has_variable(word))
        });
        unread.map_or(Ok(()), |line| Err(line.unread_problem()))
    }
}

impl CorefileLine {
    /// The first word. Every line has one.
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The other words.
    pub(super) fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The problem with a line that includes text from elsewhere.
    fn unread_problem(&self) -> CorefileProblem {
        let reason = self.unread.as_ref();
        let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        self.problem(format!(
            "`{self}` includes text that Zerohop can't read{reason}"
        ))
    }

    pub(super) fn words(&self) -> &[String] {
        &self.words
    }

    pub(super) fn problem(&self, cause: impl Into<String>) -> CorefileProblem {
        CorefileProblem::new(&self.place, cause)
    }
}

impl fmt::Display for CorefileLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

/// Reads words from left to right.
struct Parser {
    /// Whether the text has no word by which CoreDNS could add text: no `import`, and no variable.
    is_whole: bool,
    words: Vec<CorefileWord>,
    /// The index of the next word.
    at: usize,
}

impl Parser {
    fn parse_corefile(mut self) -> Result<Corefile, CorefileProblem> {
        let (mut blocks, mut imports) = (Vec::new(), Vec::new());
        while let Some(text) = self.peek_word() {
            if text == "import" && self.starts_line() {
                imports.push(self.parse_line());
                continue;
            }
            let keys = self.parse_keys()?;
            match keys.as_slice() {
                [] => return Err(self.problem("a server block has no zone")),
                // `imports` has inserted its words already.
                [key] if is_snippet_name(&key.text) => {
                    self.parse_block()?;
                }
                _ => {
                    let directives = self.parse_block()?;
                    blocks.push(ParsedBlock { keys, directives });
                }
            }
        }
        Ok(Corefile { blocks, imports })
    }

    /// Reads a server block's keys up to the opening brace or the end of the line. After a comma,
    /// the list continues on the next line.
    fn parse_keys(&mut self) -> Result<Vec<BlockKeyText>, CorefileProblem> {
        let mut keys = Vec::new();
        let mut expects_more = false;
        while let Some(text) = self.peek_word() {
            if text == "{" && expects_more {
                return Err(self.problem("a zone is missing after the comma"));
            }
            if text == "{" {
                return Ok(keys);
            }
            if text == "}" {
                return Err(self.problem("this closing brace has no opening brace"));
            }
            if has_variable(text) || (text == "import" && self.starts_line()) {
                let cause =
                    format!("`{text}` among the zones includes text that Zerohop can't read");
                return Err(self.problem(cause));
            }
            if !text.is_empty() {
                let key = text.strip_suffix(',');
                expects_more = key.is_some();
                keys.push(BlockKeyText {
                    text: key.unwrap_or(text).to_owned(),
                    place: self.place(),
                });
            }
            self.at += 1;
            if !expects_more && self.starts_line() {
                return Ok(keys);
            }
        }
        if expects_more {
            return Err(self.problem("a zone is missing after the comma"));
        }
        Ok(keys)
    }

    /// Reads a server block's directives: in braces, or up to the end of the text if there are no
    /// braces.
    fn parse_block(&mut self) -> Result<Vec<Directive>, CorefileProblem> {
        let brace_place = (self.peek_word() == Some("{")).then(|| self.place());
        if brace_place.is_some() {
            self.at += 1;
        } else if self.has_certain_line_starts() {
            // `imports` has taken the first brace for that of a server block.
            let cause = "a text with imports has a server block without braces";
            return Err(self.problem(cause));
        }
        let mut directives = Vec::new();
        loop {
            match (self.peek_word(), &brace_place) {
                (None, None) => return Ok(directives),
                (None, Some(place)) => {
                    return Err(self.unclosed_brace(place));
                }
                (Some("}"), Some(_)) => {
                    self.at += 1;
                    return Ok(directives);
                }
                (Some("}"), None) => {
                    return Err(self.problem("this closing brace has no opening brace"));
                }
                (Some("{"), _) => {
                    return Err(self.problem("this opening brace must follow a plugin's name"));
                }
                (Some(_), _) => directives.push(self.parse_directive()?),
            }
        }
    }

    /// Reads a plugin's line, and the lines in its braces if it has any.
    fn parse_directive(&mut self) -> Result<Directive, CorefileProblem> {
        let mut head = CorefileLine {
            place: self.place(),
            words: Vec::new(),
            unread: self.take_unread(),
        };
        loop {
            match self.peek_word() {
                Some("{") if self.starts_line() => {
                    return Err(self.problem("the opening brace must be on the line of its plugin"));
                }
                Some("{") => break,
                Some("}") if !self.starts_line() => {
                    return Err(self.problem("the closing brace must be on a line of its own"));
                }
                Some(_) if head.words.is_empty() || !self.starts_line() => {
                    head.words.extend(self.take_word());
                }
                Some(_) | None => {
                    return Ok(Directive {
                        head,
                        body: Vec::new(),
                    });
                }
            }
        }
        let body = self.parse_body()?;
        Ok(Directive { head, body })
    }

    /// Reads the lines in a plugin's braces.
    fn parse_body(&mut self) -> Result<Vec<CorefileLine>, CorefileProblem> {
        let brace_place = self.place();
        self.at += 1;
        let mut lines: Vec<CorefileLine> = Vec::new();
        let mut depth = 0;
        while let Some(text) = self.peek_word() {
            match text {
                "{" => depth += 1,
                "}" if depth > 0 => depth -= 1,
                "}" => {
                    // CoreDNS's parser ends the block at any closing brace, but plugins read a
                    // closing brace at the end of a line as an argument. So the meaning is unclear.
                    if !lines.is_empty() && !self.starts_line() {
                        return Err(self.problem("the closing brace must be on a line of its own"));
                    }
                    self.at += 1;
                    if self.peek_word().is_some() && !self.starts_line() {
                        return Err(self.problem("text follows the closing brace of a plugin"));
                    }
                    return Ok(lines);
                }
                _ => {}
            }
            let (starts_line, place) = (self.starts_line(), self.place());
            let unread = self.take_unread();
            let word = self.take_word();
            match lines.last_mut() {
                Some(line) if !starts_line => line.words.extend(word),
                _ => lines.push(CorefileLine {
                    place,
                    words: word.into_iter().collect(),
                    unread,
                }),
            }
        }
        Err(self.unclosed_brace(&brace_place))
    }

    /// Reads words up to the end of the line.
    fn parse_line(&mut self) -> CorefileLine {
        let (place, unread) = (self.place(), self.take_unread());
        let mut words: Vec<String> = self.take_word().into_iter().collect();
        while self.peek_word().is_some() && !self.starts_line() {
            words.extend(self.take_word());
        }
        CorefileLine {
            place,
            words,
            unread,
        }
    }

    /// Whether `imports` has marked words as the first ones on their lines.
    fn has_certain_line_starts(&self) -> bool {
        let mut words = self.words.iter();
        words.any(|word| word.line_start == LineStart::Certain)
    }

    fn peek_word(&self) -> Option<&str> {
        self.words.get(self.at).map(|word| word.text.as_str())
    }

    fn take_word(&mut self) -> Option<String> {
        let word = self.words.get_mut(self.at)?;
        self.at += 1;
        Some(std::mem::take(&mut word.text))
    }

    fn take_unread(&mut self) -> Option<String> {
        self.words.get_mut(self.at)?.unread.take()
    }

    /// Whether the next word is the first one on its line. The previous word may be quoted, and end
    /// on a later line than it begins.
    fn starts_line(&self) -> bool {
        let before = self.at.checked_sub(1).and_then(|at| self.words.get(at));
        match (before, self.words.get(self.at)) {
            (Some(before), Some(word)) => word.starts_line_after(before),
            _ => true,
        }
    }

    /// The place of the next word. At the end of the text: that of the last word.
    fn place(&self) -> Place {
        let word = self.words.get(self.at).or(self.words.last());
        word.map_or_else(Place::start, |word| word.place.clone())
    }

    /// The problem that a brace on this line is never closed. CoreDNS accepts some of these texts:
    /// an import or a variable may close the brace, and a server block may end with the closing
    /// brace of its last plugin.
    fn unclosed_brace(&self, place: &Place) -> CorefileProblem {
        let cause = "the opening brace is never closed";
        let ends_with_brace = self.words.last().is_some_and(|word| word.text == "}");
        if self.is_whole && !ends_with_brace {
            CorefileProblem::refused(place, cause)
        } else {
            CorefileProblem::new(place, cause)
        }
    }

    /// A problem with the next word. CoreDNS may accept the text: see [`CorefileProblem::refused`].
    fn problem(&self, cause: impl Into<String>) -> CorefileProblem {
        CorefileProblem::new(&self.place(), cause)
    }
}
