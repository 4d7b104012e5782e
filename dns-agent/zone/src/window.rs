//! The part of an answer that a reader needs.

use super::Rtype;

/// The part of each RRset that a reader of zone data needs.
///
/// An RRset that does not fit is read only in part, so the cost of a question depends on the length
/// of its answer, and not on the number of records that exist. A reader that gets more records than
/// its message can hold truncates the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The longest answer section that the reader can use, in bytes. An RRset whose records need
    /// more is cut to more records than these bytes can hold.
    pub bytes: usize,
    /// Chooses the first record of an RRset that is cut: about this number modulo the number of
    /// records. A different value for each query spreads the load.
    pub rotation: usize,
    /// The only type whose records the reader needs. An RRset of another type may be cut to a
    /// single record. `None`: all types.
    pub rtype: Option<Rtype>,
}

impl Window {
    /// The length of the shortest address record in a message, in bytes: a compression pointer (2
    /// bytes), type, class, TTL and the length of the data (10), and an IPv4 address (4).
    pub const MIN_ADDRESS_RECORD: usize = 16;

    /// All records.
    pub const WHOLE: Window = Window {
        bytes: usize::MAX,
        rotation: 0,
        rtype: None,
    };

    /// No more records than show that an RRset exists.
    pub const EXISTENCE: Window = Window {
        bytes: 0,
        rotation: 0,
        rtype: None,
    };

    /// How many records of an RRset to read, if each record has at least `record` bytes in a
    /// message.
    #[must_use]
    pub fn count_records(&self, rtype: Rtype, record: usize) -> usize {
        if self.rtype.is_some_and(|needed| needed != rtype) {
            return 1;
        }
        (self.bytes / record).saturating_add(1)
    }

    /// This window, for all types.
    #[must_use]
    pub fn for_all_types(self) -> Window {
        Window {
            rtype: None,
            ..self
        }
    }

    /// This window, for one type.
    #[must_use]
    pub fn for_type(self, rtype: Rtype) -> Window {
        Window {
            rtype: Some(rtype),
            ..self
        }
    }
}
