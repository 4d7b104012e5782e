//! What changes of names are attributed to.

use std::fmt;
use std::sync::Arc;

/// The object that a change of names is attributed to, as a text for people, such as `Service
/// shop/web`.
///
/// The publisher shares its time among owners, so that an owner with very many names, or with very
/// many changes, delays the publication of its own names only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NameOwner(Arc<str>);

impl NameOwner {
    /// The owner with this text. Owners with equal texts are the same.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> NameOwner {
        NameOwner(text.into())
    }
}

impl fmt::Display for NameOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
