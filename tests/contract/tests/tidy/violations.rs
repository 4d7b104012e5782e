//! The violations of one rule.

/// Collects the violations of a rule, and fails the test if there are any.
#[derive(Default)]
pub(crate) struct Violations {
    lines: Vec<String>,
}

impl Violations {
    /// Adds a violation at a line of a file, counted from 1.
    pub(crate) fn add(&mut self, file: &str, line: usize, what: &str, remedy: &str) {
        self.lines.push(format!("{file}:{line}: {what}: {remedy}"));
    }

    /// Fails the test if there are violations.
    pub(crate) fn assert_none(self) {
        let count = self.lines.len();
        assert!(count == 0, "{count} violations\n{}", self.lines.join("\n"));
    }
}
