//! Divides Rust source text into code, comments and literals.

/// What a character of a source belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextKind {
    Code,
    Comment,
    /// A string or character literal with its delimiters.
    Literal,
}

/// A source whose characters are divided into kinds.
pub(crate) struct RustText {
    characters: Vec<char>,
    kinds: Vec<TextKind>,
}

impl RustText {
    pub(crate) fn read(text: &str) -> RustText {
        let mut read = RustText {
            characters: text.chars().collect(),
            kinds: Vec::new(),
        };
        while read.kinds.len() < read.characters.len() {
            let (kind, length) = read.measure(read.kinds.len());
            let end = (read.kinds.len() + length).min(read.characters.len());
            read.kinds.resize(end, kind);
        }
        read
    }

    /// The text of one kind. Every other character is a space, so lines and columns stay.
    pub(crate) fn only(&self, kind: TextKind) -> String {
        let characters = self.characters.iter().zip(&self.kinds);
        let kept = characters.map(|(character, its_kind)| match character {
            '\n' => '\n',
            _ if *its_kind == kind => *character,
            _ => ' ',
        });
        kept.collect()
    }

    /// For each line the number of characters of its longest literal, or part of a literal.
    pub(crate) fn longest_literals(&self) -> Vec<usize> {
        let (mut longest, mut current) = (vec![0], 0);
        for (character, kind) in self.characters.iter().zip(&self.kinds) {
            current = match (character, kind) {
                ('\n', _) => {
                    longest.push(0);
                    0
                }
                (_, TextKind::Literal) => current + 1,
                _ => 0,
            };
            let last = longest.last_mut().expect("there is a line");
            *last = current.max(*last);
        }
        longest
    }

    /// The kind and the length of the text that starts at a position.
    fn measure(&self, at: usize) -> (TextKind, usize) {
        let rest = &self.characters[at..];
        let is_inside_word = at > 0
            && self.kinds[at - 1] == TextKind::Code
            && crate::repository::is_word_character(self.characters[at - 1]);
        match rest {
            ['/', '/', ..] => (TextKind::Comment, length_until_newline(rest)),
            ['/', '*', ..] => (TextKind::Comment, length_of_block_comment(rest)),
            ['"', ..] => (TextKind::Literal, length_of_string(rest)),
            ['r', '"' | '#', ..] if !is_inside_word => self.measure_raw(rest, 1),
            ['b' | 'c', 'r', '"' | '#', ..] if !is_inside_word => self.measure_raw(rest, 2),
            // An escaped character: `end` does not count the first three characters and the last
            // quote.
            ['\'', '\\', _, tail @ ..] => {
                let end = tail.iter().position(|character| *character == '\'');
                (TextKind::Literal, end.map_or(rest.len(), |end| end + 4))
            }
            ['\'', _, '\'', ..] => (TextKind::Literal, 3),
            _ => (TextKind::Code, 1),
        }
    }

    /// A raw string, or code if it is a raw identifier. `prefix` is the number of letters before
    /// the hashes.
    fn measure_raw(&self, rest: &[char], prefix: usize) -> (TextKind, usize) {
        let hashes = rest[prefix..].iter().take_while(|it| **it == '#').count();
        let start = prefix + hashes + 1;
        if rest.get(start - 1) != Some(&'"') {
            return (TextKind::Code, 1);
        }
        let is_end = |window: &[char]| window[0] == '"' && window[1..].iter().all(|it| *it == '#');
        let end = rest[start..].windows(hashes + 1).position(is_end);
        let length = end.map_or(rest.len(), |end| start + end + hashes + 1);
        (TextKind::Literal, length)
    }
}

fn length_until_newline(rest: &[char]) -> usize {
    let newline = rest.iter().position(|character| *character == '\n');
    newline.unwrap_or(rest.len())
}

fn length_of_block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at + 1 < rest.len() {
        match rest[at..at + 2] {
            ['/', '*'] => depth += 1,
            ['*', '/'] => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn length_of_string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

#[test]
fn sources_are_divided_into_code_comments_and_literals() {
    let text = r####"let a = "s // \" t"; // "c"
/* x /* y */ z */ let b: &'a str = r#"q"r"#; let c = ('"', '\'', b"u"); r#type"####;
    let read = RustText::read(text);
    let words = |kind| {
        let text = read.only(kind);
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        words.join(" ")
    };
    assert_eq!(
        words(TextKind::Code),
        "let a = ; let b: &'a str = ; let c = ( , , b ); r#type"
    );
    assert_eq!(words(TextKind::Comment), r#"// "c" /* x /* y */ z */"#);
    assert_eq!(
        words(TextKind::Literal),
        r##""s // \" t" r#"q"r"# '"' '\'' "u""##
    );
}
