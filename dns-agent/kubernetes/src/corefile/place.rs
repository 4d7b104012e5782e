//! Places in a Corefile.

use std::fmt;
use std::sync::Arc;

/// A line of the Corefile, or of a file that it imports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The path of the imported file. `None`: the Corefile.
    pub(super) file: Option<Arc<str>>,
    /// Counted from 1.
    pub(super) line: usize,
}

impl Place {
    /// The first line of the Corefile.
    pub(super) fn start() -> Place {
        let file = None;
        Place { file, line: 1 }
    }

    /// The path of the imported file. `None`: the Corefile.
    pub(super) fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}, ")?;
        }
        write!(f, "line {}", self.line)
    }
}
