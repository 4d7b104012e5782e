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
    /// The only type whose records the reader needs. An RRset of addresses of the other IP version
    /// may be cut to a single record, and RRsets of other types may be left out. `None`: all types.
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

    /// Whether the reader needs an RRset of this type.
    #[must_use]
    pub fn needs(&self, rtype: Rtype) -> bool {
        let is_address = matches!(rtype, Rtype::A | Rtype::AAAA);
        self.rtype
            .is_none_or(|needed| is_address || needed == rtype)
    }

    /// How many records of an RRset to read, if each record has at least `record` bytes in a
    /// message.
    #[must_use]
    pub fn count_records(&self, rtype: Rtype, record: usize) -> usize {
        if self.rtype.is_some_and(|needed| needed != rtype) {
            return 1;
        }
        (self.bytes / record).saturating_add(1)
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
