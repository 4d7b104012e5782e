//! A Corefile's words.

use super::finding::Unclear;

/// What stands between white space, or in quotes.
pub(super) struct Word {
    /// Without the quotes.
    pub(super) text: String,
    /// The number of the line it begins on, from 1.
    pub(super) line: usize,
    /// The number of the line it ends on: text in quotes can be several lines long.
    pub(super) last_line: usize,
}

/// Cuts a Corefile into words, as CoreDNS does (github.com/coredns/caddy, `caddyfile/lexer.go`).
pub(super) fn words(text: &str) -> Result<Vec<Word>, Unclear> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lexer = Lexer {
        words: Vec::new(),
        word: String::new(),
        line: 1,
    };
    let mut chars = text.chars();
    let mut in_comment = false;
    while let Some(c) = chars.next() {
        match c {
            '\r' => {}
            // A comment right behind a word ends with the next white space, not with the line:
            // what follows are words again. That is how CoreDNS reads it.
            _ if c.is_whitespace() => in_comment &= !lexer.end_word() && c != '\n',
            _ if in_comment => {}
            '#' => in_comment = true,
            '"' if lexer.word.is_empty() => lexer.quoted(&mut chars)?,
            _ => lexer.word.push(c),
        }
        lexer.line += usize::from(c == '\n');
    }
    lexer.end_word();
    Ok(lexer.words)
}

struct Lexer {
    words: Vec<Word>,
    /// The word that has begun, on this line; else empty.
    word: String,
    line: usize,
}

impl Lexer {
    /// Whether a word had begun.
    fn end_word(&mut self) -> bool {
        let text = std::mem::take(&mut self.word);
        let has_begun = !text.is_empty();
        if has_begun {
            self.push(text, self.line);
        }
        has_begun
    }

    /// The rest of a word in quotes. Only quotes can be escaped.
    fn quoted(&mut self, chars: &mut std::str::Chars<'_>) -> Result<(), Unclear> {
        let (mut text, first_line) = (String::new(), self.line);
        while let Some(c) = chars.next() {
            let escaped = if c == '\\' { chars.next() } else { None };
            match (c, escaped) {
                ('"', None) => {
                    self.push(text, first_line);
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
        Err(Unclear::new(first_line, "the quotes are never closed"))
    }

    fn push(&mut self, text: String, line: usize) {
        self.words.push(Word {
            text,
            line,
            last_line: self.line,
        });
    }
}
