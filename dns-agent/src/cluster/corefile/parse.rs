//! A Corefile as server blocks and directives, cut exactly where CoreDNS's own parser
//! cuts it (github.com/coredns/caddy, `caddyfile/parse.go`).
//!
//! Where CoreDNS would put other text in place of what stands there, nothing is guessed:
//! see [`Corefile::unread`] and [`Directive::check_complete`].

use std::fmt;

use super::finding::Unclear;
use super::lex::{Word, words};

/// A Corefile.
pub(super) struct Corefile {
    /// Its server blocks.
    pub(super) blocks: Vec<ServerBlock>,
    /// What stands outside of them and brings in text or prepares for it: `import` and
    /// snippets.
    pub(super) unread: Vec<Line>,
}

/// Keys, and the directives of their plugins.
pub(super) struct ServerBlock {
    pub(super) keys: Vec<Key>,
    pub(super) directives: Vec<Directive>,
}

/// What a server block is for: a zone, with a scheme before it and a port behind it.
pub(super) struct Key {
    pub(super) text: String,
    /// The number of its line, from 1.
    pub(super) line: usize,
}

/// A plugin's line, and the lines in braces that belong to it.
pub(super) struct Directive {
    /// Its first line: the plugin's name and arguments.
    pub(super) head: Line,
    /// What stands in its braces. Inner braces are words like others.
    pub(super) body: Vec<Line>,
}

/// The words of a line: a name and arguments.
pub(super) struct Line {
    /// Its number, from 1.
    pub(super) number: usize,
    words: Vec<String>,
}

impl Corefile {
    /// Reads a Corefile's text.
    pub(super) fn parse(text: &str) -> Result<Corefile, Unclear> {
        let words = words(text)?;
        Parser { words, at: 0 }.corefile()
    }
}

impl Directive {
    /// The plugin's name.
    pub(super) fn name(&self) -> &str {
        self.head.name()
    }

    /// Refuses lines into which CoreDNS would put text that isn't known here: files, snippets,
    /// environment variables.
    pub(super) fn check_complete(&self) -> Result<(), Unclear> {
        let mut lines = std::iter::once(&self.head).chain(&self.body);
        let unread = lines.find(|line| {
            line.name() == "import" || line.words.iter().any(|word| is_variable(word))
        });
        unread.map_or(Ok(()), |line| Err(line.unread()))
    }
}

impl Line {
    /// The first word; a line has at least one.
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The other words.
    pub(super) fn args(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// What to say of a line in which text is brought in from elsewhere.
    pub(super) fn unread(&self) -> Unclear {
        self.unclear(format!("`{self}` brings in text that Zerohop can't see"))
    }

    /// All words.
    pub(super) fn words(&self) -> &[String] {
        &self.words
    }

    /// Why nothing can be concluded from this line.
    pub(super) fn unclear(&self, what: impl Into<String>) -> Unclear {
        Unclear::new(self.number, what)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}

/// Reads words from left to right.
struct Parser {
    words: Vec<Word>,
    at: usize,
}

impl Parser {
    fn corefile(mut self) -> Result<Corefile, Unclear> {
        let (mut blocks, mut unread) = (Vec::new(), Vec::new());
        while let Some(text) = self.peek() {
            if text == "import" && self.starts_line() {
                unread.push(self.line());
                continue;
            }
            let keys = self.keys()?;
            match keys.as_slice() {
                [] => return Err(self.unclear("a server block has no zone")),
                [key] if key.text.starts_with('(') && key.text.ends_with(')') => {
                    unread.push(Line {
                        number: key.line,
                        words: vec![key.text.clone()],
                    });
                    self.block()?;
                }
                _ => {
                    let directives = self.block()?;
                    blocks.push(ServerBlock { keys, directives });
                }
            }
        }
        Ok(Corefile { blocks, unread })
    }

    /// The words up to the brace or the end of the line; after a comma it goes on.
    fn keys(&mut self) -> Result<Vec<Key>, Unclear> {
        let mut keys = Vec::new();
        let mut expects_more = false;
        while let Some(text) = self.peek() {
            if text == "{" && expects_more {
                return Err(self.unclear("a zone is missing after the comma"));
            }
            if text == "{" {
                return Ok(keys);
            }
            if text == "}" {
                return Err(self.unclear("no brace was opened before this one"));
            }
            if is_variable(text) || (text == "import" && self.starts_line()) {
                let what =
                    format!("`{text}` among the zones stands for text that Zerohop can't see");
                return Err(self.unclear(what));
            }
            if !text.is_empty() {
                let key = text.strip_suffix(',');
                expects_more = key.is_some();
                keys.push(Key {
                    text: key.unwrap_or(text).to_owned(),
                    line: self.line_number(),
                });
            }
            self.at += 1;
            if !expects_more && self.starts_line() {
                return Ok(keys);
            }
        }
        if expects_more {
            return Err(self.unclear("a zone is missing after the comma"));
        }
        Ok(keys)
    }

    /// Directives in braces, or without them up to the end of the text.
    fn block(&mut self) -> Result<Vec<Directive>, Unclear> {
        let opened = (self.peek() == Some("{")).then(|| self.line_number());
        if opened.is_some() {
            self.at += 1;
        }
        let mut directives = Vec::new();
        loop {
            match (self.peek(), opened) {
                (None, None) => return Ok(directives),
                (None, Some(line)) => {
                    return Err(Unclear::refused(line, "the opening brace is never closed"));
                }
                (Some("}"), Some(_)) => {
                    self.at += 1;
                    return Ok(directives);
                }
                (Some("}"), None) => {
                    return Err(self.unclear("no brace was opened before this one"));
                }
                (Some("{"), _) => return Err(self.unclear("a brace opens without a plugin's name")),
                (Some(_), _) => directives.push(self.directive()?),
            }
        }
    }

    fn directive(&mut self) -> Result<Directive, Unclear> {
        let mut head = Line {
            number: self.line_number(),
            words: Vec::new(),
        };
        loop {
            match self.peek() {
                Some("{") if self.starts_line() => {
                    return Err(self.unclear("the brace must stand on the line of its plugin"));
                }
                Some("{") => break,
                Some("}") if !self.starts_line() => {
                    return Err(self.unclear("the closing brace must stand on a line of its own"));
                }
                Some(_) if head.words.is_empty() || !self.starts_line() => {
                    head.words.extend(self.take());
                }
                Some(_) | None => {
                    return Ok(Directive {
                        head,
                        body: Vec::new(),
                    });
                }
            }
        }
        let body = self.body()?;
        Ok(Directive { head, body })
    }

    /// The lines in a plugin's braces.
    fn body(&mut self) -> Result<Vec<Line>, Unclear> {
        let opened = self.line_number();
        self.at += 1;
        let mut lines: Vec<Line> = Vec::new();
        let mut depth = 0;
        while let Some(text) = self.peek() {
            match text {
                "{" => depth += 1,
                "}" if depth > 0 => depth -= 1,
                "}" => {
                    // CoreDNS's parser ends the block at any brace, its plugins take one at the
                    // end of a line for an argument: what comes of that is better not guessed.
                    if !lines.is_empty() && !self.starts_line() {
                        return Err(
                            self.unclear("the closing brace must stand on a line of its own")
                        );
                    }
                    self.at += 1;
                    if self.peek().is_some() && !self.starts_line() {
                        return Err(self.unclear("text follows the closing brace of a plugin"));
                    }
                    return Ok(lines);
                }
                _ => {}
            }
            let (starts_line, number) = (self.starts_line(), self.line_number());
            let word = self.take();
            match lines.last_mut() {
                Some(line) if !starts_line => line.words.extend(word),
                _ => lines.push(Line {
                    number,
                    words: word.into_iter().collect(),
                }),
            }
        }
        Err(Unclear::refused(
            opened,
            "the opening brace is never closed",
        ))
    }

    /// The words up to the end of the line.
    fn line(&mut self) -> Line {
        let number = self.line_number();
        let mut words: Vec<String> = self.take().into_iter().collect();
        while self.peek().is_some() && !self.starts_line() {
            words.extend(self.take());
        }
        Line { number, words }
    }

    fn peek(&self) -> Option<&str> {
        self.words.get(self.at).map(|word| word.text.as_str())
    }

    fn take(&mut self) -> Option<String> {
        let word = self.words.get_mut(self.at)?;
        self.at += 1;
        Some(std::mem::take(&mut word.text))
    }

    /// Whether the next word is on another line than the end of the word before it.
    fn starts_line(&self) -> bool {
        let before = self.at.checked_sub(1).and_then(|at| self.words.get(at));
        match (before, self.words.get(self.at)) {
            (Some(before), Some(word)) => before.last_line < word.line,
            _ => true,
        }
    }

    /// The line of the next word, or else of the last one.
    fn line_number(&self) -> usize {
        let word = self.words.get(self.at).or(self.words.last());
        word.map_or(1, |word| word.line)
    }

    fn unclear(&self, what: impl Into<String>) -> Unclear {
        Unclear::new(self.line_number(), what)
    }
}

/// Whether CoreDNS puts the value of an environment variable in place of a part of it.
fn is_variable(word: &str) -> bool {
    word.contains("{$") || word.contains("{%")
}
