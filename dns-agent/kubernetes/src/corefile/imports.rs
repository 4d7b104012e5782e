//! Replaces `import` lines with the words of files and snippets, and variables with their values,
//! as CoreDNS's parser does (github.com/coredns/caddy, `caddyfile/parse.go`).
//!
//! Words are inserted, and not text: a closing brace in an imported file ends the server block of
//! the importing file. A snippet, `(name) { … }`, stands outside server blocks and before its
//! `import` lines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::finding::CorefileProblem;
use super::place::Place;
use super::words::{CorefileWord, LineStart, split_words};
use crate::container_files::KnownFile;
use crate::coredns_config::CoreDnsConfig;

/// The most `import` lines that are followed. CoreDNS follows 10,000.
const MAX_IMPORTS: usize = 100;
/// The most bytes of text that are read, in files and, each time they are inserted, in snippets.
const MAX_LENGTH: usize = 4 << 20;

/// The words of a Corefile and of the files that it imports. An `import` line that Zerohop can't
/// follow stays, and its first word has the reason. A variable whose value is unknown stays.
pub(super) fn read_words(config: &CoreDnsConfig) -> Result<Vec<CorefileWord>, CorefileProblem> {
    let words = split_words(&config.corefile, None)?;
    let mut importer = Importer {
        config,
        imports: 0,
        imported: BTreeSet::new(),
        snippets: BTreeMap::new(),
        length: config.corefile.len(),
    };
    let mut words = importer.follow_imports(words)?;
    for word in &mut words {
        if let Some(text) = substitute(config, &word.text)
            // CoreDNS compares these words before it inserts values.
            && !matches!(text.as_str(), "" | "{" | "}" | "import")
        {
            word.text = text;
        }
    }
    Ok(words)
}

/// Whether CoreDNS may replace a part of the word with the value of an environment variable.
pub(super) fn has_variable(word: &str) -> bool {
    word.contains("{$") || word.contains("{%")
}

/// The absolute paths and patterns of files that a text may name in `import` or `hosts`. `path` is
/// the path of the text's own file. The result may have paths that CoreDNS doesn't read.
pub(crate) fn named_files(text: &str, path: &str) -> Vec<String> {
    let words = split_words(text, None).unwrap_or_default();
    let pairs = words.windows(2).map(|pair| (&pair[0].text, &pair[1].text));
    let named = pairs.filter(|(name, _)| matches!(name.as_str(), "import" | "hosts"));
    named
        .filter_map(|(_, file)| absolute_path(file, path))
        .collect()
}

/// A path or pattern in an `import` of the file at `importing`, as an absolute path. `None` if the
/// directory of that file is unknown.
fn absolute_path(path: &str, importing: &str) -> Option<String> {
    if path.starts_with('/') {
        return Some(path.to_owned());
    }
    let (directory, _) = importing.rsplit_once('/')?;
    let relative = path.strip_prefix("./").unwrap_or(path);
    Some(format!("{directory}/{relative}"))
}

/// Inserts the words of imported files.
struct Importer<'a> {
    config: &'a CoreDnsConfig,
    /// How many `import` lines were followed.
    imports: usize,
    /// The paths of the imported files.
    imported: BTreeSet<String>,
    /// The words of the snippets so far, by their names in parentheses.
    snippets: BTreeMap<String, Vec<CorefileWord>>,
    /// How many bytes of text were read.
    length: usize,
}

/// What an `import` line stands for.
enum Import {
    Words(Vec<CorefileWord>),
    /// Zerohop can't tell. The text is the reason, as a clause.
    Unknown(String),
}

impl Importer<'_> {
    fn follow_imports(
        &mut self,
        words: Vec<CorefileWord>,
    ) -> Result<Vec<CorefileWord>, CorefileProblem> {
        let mut followed: Vec<CorefileWord> = Vec::with_capacity(words.len());
        // The next word is the last one.
        let mut left: Vec<CorefileWord> = words.into_iter().rev().collect();
        // How many braces of `followed` are open.
        let mut depth: usize = 0;
        while let Some(mut word) = left.pop() {
            match word.text.as_str() {
                "{" => depth += 1,
                "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            let before = followed.last().map(|before| before.text.as_str());
            if depth == 0 && self.may_name_snippet_otherwise(&word, before) {
                let cause = "the name of a snippet has a variable, or follows an empty word";
                return Err(CorefileProblem::new(&word.place, cause));
            }
            let is_between_blocks = depth == 0 && before.is_none_or(|before| before == "}");
            if is_between_blocks && is_snippet_name(&word.text) {
                self.define_snippet(word, &mut left, &mut followed)?;
                continue;
            }
            let starts_line = followed
                .last()
                .is_none_or(|before| word.starts_line_after(before));
            if word.text != "import" || !starts_line {
                followed.push(word);
                continue;
            }
            let argument = left.pop_if(|next| !next.starts_line_after(&word));
            let Some(argument) = argument else {
                let cause = "`import` names no file";
                return Err(CorefileProblem::refused(&word.place, cause));
            };
            let is_only = left
                .last()
                .is_none_or(|next| next.starts_line_after(&argument));
            if !is_only {
                let cause = "`import` has several arguments";
                return Err(CorefileProblem::refused(&word.place, cause));
            }
            let import = match self.read_snippet(&argument, depth)? {
                Some(snippet) => Import::Words(snippet),
                None => self.resolve(&argument, &left)?,
            };
            match import {
                Import::Words(words) => left.extend(words.into_iter().rev()),
                Import::Unknown(reason) => {
                    word.unread = Some(reason);
                    followed.extend([word, argument]);
                    continue;
                }
            }
            // In a server block, CoreDNS reads a plugin's line after an `import` line, whatever the
            // lines of the words are, and also if the `import` line inserts nothing.
            if depth == 1
                && let Some(next) = left.last_mut()
            {
                next.line_start = LineStart::Certain;
            }
        }
        Ok(followed)
    }

    /// Whether CoreDNS may take a word outside braces for the name of a snippet, although it isn't
    /// written as one after a block: CoreDNS inserts variables before, and ignores empty words.
    /// `before` is the word before.
    fn may_name_snippet_otherwise(&self, word: &CorefileWord, before: Option<&str>) -> bool {
        let text = word.text.as_str();
        if has_variable(text) {
            let value = substitute(self.config, text);
            return is_snippet_name(text) || value.is_some_and(|value| is_snippet_name(&value));
        }
        is_snippet_name(text) && before == Some("")
    }

    /// Moves the words of a snippet, which is in braces, from `left` to `followed`. The `import`
    /// lines inside are followed only where the snippet is imported.
    fn define_snippet(
        &mut self,
        name: CorefileWord,
        left: &mut Vec<CorefileWord>,
        followed: &mut Vec<CorefileWord>,
    ) -> Result<(), CorefileProblem> {
        let place = name.place.clone();
        let Some(brace) = left.pop_if(|word| word.text == "{") else {
            return Err(CorefileProblem::new(
                &place,
                "a snippet has no opening brace",
            ));
        };
        let mut words = Vec::new();
        let mut depth: usize = 1;
        while let Some(word) = left.pop() {
            match word.text.as_str() {
                "{" => depth += 1,
                "}" => depth -= 1,
                _ => {}
            }
            if depth > 0 {
                words.push(word);
                continue;
            }
            let imports_itself = words
                .windows(2)
                .any(|pair| pair[0].text == "import" && format!("({})", pair[1].text) == name.text);
            if imports_itself || self.snippets.contains_key(&name.text) {
                let cause = format!(
                    "the snippet {} imports itself, or there is another one of this name",
                    name.text
                );
                return Err(CorefileProblem::new(&place, cause));
            }
            self.snippets.insert(name.text.clone(), words.clone());
            followed.extend([name, brace]);
            followed.append(&mut words);
            followed.push(word);
            return Ok(());
        }
        Err(CorefileProblem::new(
            &place,
            "the opening brace is never closed",
        ))
    }

    /// The words of the snippet that the argument of an `import` line names. `None` if there is no
    /// such snippet. `depth` is the number of open braces around the line.
    fn read_snippet(
        &mut self,
        argument: &CorefileWord,
        depth: usize,
    ) -> Result<Option<Vec<CorefileWord>>, CorefileProblem> {
        let place = &argument.place;
        let Some(name) = substitute(self.config, &argument.text) else {
            return Ok(None);
        };
        let Some(snippet) = self.snippets.get(&format!("({name})")) else {
            return Ok(None);
        };
        // CoreDNS would take the first line for a part of the line before.
        if depth > 1 {
            let cause = "a snippet is imported inside the braces of a plugin";
            return Err(CorefileProblem::new(place, cause));
        }
        let words = snippet.clone();
        let length: usize = words.iter().map(|word| word.text.len() + 1).sum();
        self.count_import(place, length)?;
        Ok(Some(words))
    }

    /// Counts an `import` line, and the bytes that it inserts.
    fn count_import(&mut self, place: &Place, length: usize) -> Result<(), CorefileProblem> {
        self.imports += 1;
        if self.imports > MAX_IMPORTS {
            let cause = format!("there are more than {MAX_IMPORTS} imports");
            return Err(CorefileProblem::new(place, cause));
        }
        self.add_length(place, length)
    }

    /// Counts bytes that an `import` line inserts.
    fn add_length(&mut self, place: &Place, length: usize) -> Result<(), CorefileProblem> {
        self.length += length;
        if self.length > MAX_LENGTH {
            let cause =
                format!("the Corefile and what it imports are longer than {MAX_LENGTH} bytes");
            return Err(CorefileProblem::new(place, cause));
        }
        Ok(())
    }

    /// Reads the files that the argument of an `import` line names. `after` are the words after the
    /// line.
    fn resolve(
        &mut self,
        argument: &CorefileWord,
        after: &[CorefileWord],
    ) -> Result<Import, CorefileProblem> {
        let place = &argument.place;
        let unknown = |reason: &str| Ok(Import::Unknown(reason.to_owned()));
        let Some(pattern) = substitute(self.config, &argument.text) else {
            return unknown("the value of a variable is unknown");
        };
        let snippet = format!("({pattern})");
        if after.iter().any(|word| word.text == snippet) {
            return unknown("it may be a snippet that follows later");
        }
        self.count_import(place, 0)?;
        let importing = place.file().or(self.config.path.as_deref());
        let Some(pattern) = absolute_path(&pattern, importing.unwrap_or_default()) else {
            return unknown("it isn't known in which directory the Corefile is");
        };
        if pattern.ends_with('/') {
            return unknown("it names a directory");
        }
        let is_pattern = pattern.contains(['*', '?', '[', ']', '\\']);
        let count = |wildcard: char| pattern.matches(wildcard).count();
        if count('*') > 1 || count('?') > 1 || (pattern.contains('[') && pattern.contains(']')) {
            let cause = format!("`import {pattern}` has several wildcards");
            return Err(CorefileProblem::refused(place, cause));
        }
        let paths = if is_pattern {
            match self.config.files.find(&pattern) {
                Ok(paths) => paths,
                Err(reason) => return Ok(Import::Unknown(reason)),
            }
        } else {
            vec![pattern]
        };
        let mut words = Vec::new();
        for path in paths {
            // Words of the same file that follow each other have no line breaks between them.
            if !self.imported.insert(path.clone()) {
                return Ok(Import::Unknown(format!("{path} is imported twice")));
            }
            match self.config.files.read(&path) {
                KnownFile::Text(text) => {
                    self.add_length(place, text.len())?;
                    words.extend(split_words(text, Some(Arc::from(path)))?);
                }
                KnownFile::Absent => {
                    let cause = format!("there is no file {path} to import");
                    return Err(CorefileProblem::refused(place, cause));
                }
                KnownFile::Unknown(reason) => return Ok(Import::Unknown(reason)),
            }
        }
        Ok(Import::Words(words))
    }
}

/// Whether a word is the name of a snippet, in parentheses.
pub(super) fn is_snippet_name(word: &str) -> bool {
    word.starts_with('(') && word.ends_with(')')
}

/// The word with the values of its variables. `None` if a value is unknown.
fn substitute(config: &CoreDnsConfig, word: &str) -> Option<String> {
    let mut text = word.to_owned();
    for (start, end) in [("{%", "%}"), ("{$", "}")] {
        let mut searched = 0;
        while let Some(at) = text[searched..].find(start) {
            let name_start = searched + at + start.len();
            let Some(length) = text[name_start..].find(end).filter(|length| *length > 0) else {
                break;
            };
            let value = config.variable(&text[name_start..name_start + length])?;
            // CoreDNS would replace variables in the value too.
            if has_variable(value) {
                return None;
            }
            let whole = searched + at..name_start + length + end.len();
            text.replace_range(whole, value);
            searched += at + value.len();
        }
    }
    Some(text)
}
