//! Whether something is known to be true.

/// An answer that may not be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certainty {
    Yes,
    /// It isn't known.
    Maybe,
    No,
}

impl Certainty {
    /// Whether both hold.
    pub(super) fn and(self, other: Certainty) -> Certainty {
        match (self, other) {
            (Certainty::No, _) | (_, Certainty::No) => Certainty::No,
            (Certainty::Yes, Certainty::Yes) => Certainty::Yes,
            _ => Certainty::Maybe,
        }
    }

    /// Whether one of these holds. [`Certainty::No`] if there are none.
    pub(super) fn any(all: impl IntoIterator<Item = Certainty>) -> Certainty {
        let mut any = Certainty::No;
        for one in all {
            match one {
                Certainty::Yes => return Certainty::Yes,
                Certainty::Maybe => any = Certainty::Maybe,
                Certainty::No => {}
            }
        }
        any
    }

    /// What these agree on. [`Certainty::Maybe`] if they differ, or if there are none.
    pub(super) fn common(all: impl IntoIterator<Item = Certainty>) -> Certainty {
        let mut all = all.into_iter();
        let Some(first) = all.next() else {
            return Certainty::Maybe;
        };
        if all.all(|other| other == first) {
            first
        } else {
            Certainty::Maybe
        }
    }
}

impl From<bool> for Certainty {
    fn from(is_true: bool) -> Certainty {
        if is_true {
            Certainty::Yes
        } else {
            Certainty::No
        }
    }
}
