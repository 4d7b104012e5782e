//! Response codes as indexes of fixed arrays, and their texts in CoreDNS's metrics.

/// The names of response codes (RFC 6895 section 2.3). CoreDNS calls 16 BADSIG, though in a reply
/// to a query it means BADVERS.
const RCODE_NAMES: [&str; RCODE_COUNT] = [
    "NOERROR",
    "FORMERR",
    "SERVFAIL",
    "NXDOMAIN",
    "NOTIMP",
    "REFUSED",
    "YXDOMAIN",
    "YXRRSET",
    "NXRRSET",
    "NOTAUTH",
    "NOTZONE",
    "DSOTYPENI",
    "RCODE12",
    "RCODE13",
    "RCODE14",
    "RCODE15",
    "BADSIG",
    "BADKEY",
    "BADTIME",
    "BADMODE",
    "BADNAME",
    "BADALG",
    "BADTRUNC",
    "BADCOOKIE",
];
/// Number of response codes that are counted apart from others.
pub(super) const RCODE_COUNT: usize = 24;

const HEADER_LEN: usize = 12;
/// The type OPT (RFC 6891 section 6.1.2).
const OPT: [u8; 2] = [0, 41];

/// The index of a response code. A code without a name of its own counts as its lower four bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RcodeIndex(u8);

impl RcodeIndex {
    pub(super) fn of(rcode: u16) -> RcodeIndex {
        match u8::try_from(rcode) {
            Ok(code) if usize::from(code) < RCODE_COUNT => RcodeIndex(code),
            _ => RcodeIndex((rcode & 0xf) as u8),
        }
    }

    /// The code of a reply. The upper bits are read if the OPT record follows the question
    /// (RFC 6891 section 6.1.3). It does in a reply without records, such as BADVERS.
    pub(super) fn of_reply(message: &[u8], question_end: usize) -> RcodeIndex {
        let lower = u16::from(message.get(3).copied().unwrap_or_default() & 0xf);
        let has_only_opt = message.get(6..HEADER_LEN) == Some(&[0, 0, 0, 0, 0, 1]);
        let record = message.get(question_end..).unwrap_or_default();
        match record {
            [0, high, low, _, _, upper, ..] if has_only_opt && [*high, *low] == OPT => {
                RcodeIndex::of(u16::from(*upper) << 4 | lower)
            }
            _ => RcodeIndex::of(lower),
        }
    }

    pub(super) fn all() -> impl Iterator<Item = RcodeIndex> {
        (0..RCODE_COUNT as u8).map(RcodeIndex)
    }

    pub(super) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn name(self) -> &'static str {
        RCODE_NAMES[self.index()]
    }
}
