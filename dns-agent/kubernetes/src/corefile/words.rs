//! Splits a Corefile into words.

use std::sync::Arc;

use super::finding::CorefileProblem;
use super::place::Place;

/// Text between white space, or in quotes.
#[derive(Clone)]
pub(super) struct CorefileWord {
    /// The text without its quotes.
    pub(super) text: String,
    /// Where the word begins.
    pub(super) place: Place,
    /// The line on which the word ends. A quoted word can span several lines.
    pub(super) last_line: usize,
    pub(super) line_start: LineStart,
    /// For an `import` that Zerohop can't follow: the reason, as a clause.
    pub(super) unread: Option<String>,
}

/// Whether a word is the first one on its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineStart {
    /// The places of this word and the word before tell.
    ByPlace,
    /// It is, whatever the places: it is the first word after an `import` line in a server block,
    /// where CoreDNS begins a plugin's line.
    Certain,
}

/// Splits a Corefile, or the imported file at this path, into words as CoreDNS does
/// (github.com/coredns/caddy, `caddyfile/lexer.go`). Fails if quotes are never closed: CoreDNS then
/// reads the rest of the text as one word.
pub(super) fn split_words(
    text: &str,
    file: Option<Arc<str>>,
) -> Result<Vec<CorefileWord>, CorefileProblem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lexer = Lexer {
        file,
        words: Vec::new(),
        word: String::new(),
        line: 1,
    };
    let mut chars = text.chars();
    let mut in_comment = false;
    while let Some(c) = chars.next() {
        match c {
            '\r' => {}
            _ if c.is_whitespace() => {
                // As in CoreDNS, a comment that directly follows a word ends at the next white
                // space, not at the end of the line.
                if lexer.end_word() || c == '\n' {
                    in_comment = false;
                }
            }
            _ if in_comment => {}
            '#' => in_comment = true,
            '"' if lexer.word.is_empty() => lexer.read_quoted(&mut chars)?,
            _ => lexer.word.push(c),
        }
        lexer.line += usize::from(c == '\n');
    }
    lexer.end_word();
    Ok(lexer.words)
}

impl CorefileWord {
    /// Whether this word is the first one on its line. `before` is the word before, which may be
    /// quoted, and end on a later line than it begins.
    pub(super) fn starts_line_after(&self, before: &CorefileWord) -> bool {
        self.line_start == LineStart::Certain
            || before.place.file != self.place.file
            || before.last_line < self.place.line
    }
}

struct Lexer {
    file: Option<Arc<str>>,
    words: Vec<CorefileWord>,
    /// The unfinished word on this line. Empty if there is none.
    word: String,
    line: usize,
}

impl Lexer {
    /// Ends the unfinished word. Returns whether there was one.
    fn end_word(&mut self) -> bool {
        let text = std::mem::take(&mut self.word);
        let was_unfinished = !text.is_empty();
        if was_unfinished {
            self.push_word(text, self.line);
        }
        was_unfinished
    }

    /// Reads a quoted word after its opening quote. The only escape sequence is `\"`.
    fn read_quoted(&mut self, chars: &mut std::str::Chars<'_>) -> Result<(), CorefileProblem> {
        let (mut text, first_line) = (String::new(), self.line);
        while let Some(c) = chars.next() {
            let escaped = if c == '\\' { chars.next() } else { None };
            match (c, escaped) {
                ('"', None) => {
                    self.push_word(text, first_line);
                    return Ok(());
                }
                (_, Some('"')) => text.push('"'),
                (c, escaped) => {
                    text.push(c);
                    text.extend(escaped);
                    self.line += usize::from(c == '\n' || escaped == Some('\n'));
                }
            }
        }
        Err(CorefileProblem::new(
            &self.place(first_line),
            "the quotes are never closed",
        ))
    }

    fn push_word(&mut self, text: String, line: usize) {
        self.words.push(CorefileWord {
            text,
            place: self.place(line),
            last_line: self.line,
            line_start: LineStart::ByPlace,
            unread: None,
        });
    }

    fn place(&self, line: usize) -> Place {
        Place {
            file: self.file.clone(),
            line,
        }
    }
}
