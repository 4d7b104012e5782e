//! The report as text.

use std::fmt;

use super::{CheckVerdict, Finding, Report};

/// Maximum length of a line in columns, unless a word is longer.
const WIDTH: usize = 100;
/// Width of the column of verdicts, in characters.
const VERDICT: usize = 9;
/// Width of the column of subjects, in characters.
const SUBJECT: usize = 12;

impl Report {
    pub(super) fn new(findings: Vec<Finding>) -> Report {
        let worst = findings.iter().map(|finding| finding.verdict).max();
        Report {
            verdict: worst.unwrap_or(CheckVerdict::Works),
            findings,
        }
    }

    fn count(&self, verdict: CheckVerdict) -> usize {
        let findings = self.findings.iter();
        findings
            .filter(|finding| finding.verdict == verdict)
            .count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        let limits = match self.count(CheckVerdict::Limited) {
            0 => String::new(),
            1 => ", with 1 limit".to_owned(),
            count => format!(", with {count} limits"),
        };
        writeln!(f)?;
        match self.count(CheckVerdict::Fails) {
            0 => writeln!(f, "the kernel plane works here{limits}"),
            1 => writeln!(f, "not everything works here: 1 check fails{limits}"),
            count => writeln!(f, "not everything works here: {count} checks fail{limits}"),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = self.verdict.name();
        write!(f, "{verdict:<VERDICT$}{:<SUBJECT$}", self.subject)?;
        let mut column = VERDICT + SUBJECT;
        for (number, word) in self.text.split_whitespace().enumerate() {
            let length = word.chars().count();
            let is_full = column + 1 + length > WIDTH;
            if number > 0 && is_full {
                write!(f, "\n{:1$}", "", VERDICT + SUBJECT)?;
                column = VERDICT + SUBJECT;
            } else if number > 0 {
                f.write_str(" ")?;
                column += 1;
            }
            f.write_str(word)?;
            column += length;
        }
        Ok(())
    }
}

impl CheckVerdict {
    /// The verdict's name in text and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            CheckVerdict::Works => "works",
            CheckVerdict::Limited => "limited",
            CheckVerdict::Fails => "fails",
        }
    }
}
