//! Restores the names in responses about rewritten names, and checks what the client gets. Replies
//! are compared as text, which the independent reader of `zerohop-contract` makes.

use std::sync::LazyLock;

use zerohop_contract::message::Message;
use zerohop_resolver::{
    bailiwick::LocalNames,
    message::QueryAction,
    response::{Response, UpstreamQuery},
};
use zerohop_routes::{AfterMatch, NamePattern, NameRewrite, RewriteStep, RouteBlock, Routes, Way};
use zerohop_zone::Name;

use super::{
    cached::NO_NAMES,
    input::FuzzInput,
    reply,
    response::{build_response, forwarded, question, transport},
};

/// What became of an upstream's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RewrittenOutcome {
    /// It was rejected, because it is malformed or doesn't answer the upstream query.
    Rejected,
    /// The client gets a reply without records, such as SERVFAIL.
    Empty,
    /// The client gets records.
    Restored,
}

/// What the client asks for, and which suffix of names in the response it gets in place of which:
/// the rules of `ROUTES`, in other words.
struct Rewrite {
    asked: (&'static str, u16),
    found: &'static str,
    original: &'static str,
}

const REWRITES: [Rewrite; 4] = [
    Rewrite {
        asked: ("WWW.old.example", 1),
        found: "a-much-longer-name.new.example.",
        original: "www.old.example.",
    },
    Rewrite {
        asked: ("a.B.zone.example", 33),
        found: ".n.example.",
        original: ".b.zone.example.",
    },
    Rewrite {
        asked: ("x.y.apps.example", 15),
        found: "y-x.new.example.",
        original: "x.y.apps.example.",
    },
    Rewrite {
        asked: ("x.y.apps.example", 12),
        found: "y-x.new.example.",
        original: "x.y.apps.example.",
    },
];

static ROUTES: LazyLock<Routes> = LazyLock::new(|| {
    let name = |text| Name::parse(text).expect("a name is malformed");
    let target = "a-much-longer-name.new.example.";
    let exact = NameRewrite::Exact(name("www.old.example"), target.into());
    let suffix = NameRewrite::Suffix(".b.zone.example.".into(), ".n.example.".into());
    let pattern = NamePattern::from_regex(r"^([^.]+)\.([^.]+)\.apps\.example\.$");
    let pattern = pattern.expect("the pattern is malformed");
    let regex = NameRewrite::Regex(pattern, "{2}-{1}.new.example.".into());
    let rules = [exact, suffix, regex];
    Routes::new(vec![RouteBlock {
        zones: vec![Name::root()],
        rewrites: rules
            .map(|rule| RewriteStep::Name(rule, AfterMatch::Stop))
            .into(),
        ..RouteBlock::default()
    }])
});

/// Turns an upstream's message about a rewritten name into the client's reply, and checks it.
///
/// The bits of the input's first byte are those of the target `response`: bits 0 and 1 are the
/// number of the question in `REWRITES`.
///
/// # Panics
///
/// When the reply breaks a rule of [`reply::check`] or of this target.
pub fn check(input: &[u8]) -> RewrittenOutcome {
    let mut input = FuzzInput(input);
    let flags = input.byte();
    let rewrite = &REWRITES[usize::from(flags % 4)];
    let mut client = question(rewrite.asked);
    client.id = input.word();
    if flags & 4 != 0 {
        client = client.with_edns(input.word(), u32::from(flags >> 7), &[]);
    }
    let message = client.message();
    let transport = transport(flags, 8);
    let query = forwarded(&message, transport, &*NO_NAMES);
    let name = Name::parse(rewrite.asked.0).expect("a name is malformed");
    let Way::Rewritten(rewriting) = ROUTES.way(&name, rewrite.asked.1.into()) else {
        panic!("{name} is not rewritten");
    };
    let query = query.rewritten(rewriting);
    let sent = UpstreamQuery::forwarding(&query).with_id(input.word());
    let bytes = match flags & 16 {
        0 => build_response(&sent, &mut input),
        _ => input.0.to_vec(),
    };
    let Some(response) = Response::parse(&bytes, &sent) else {
        return RewrittenOutcome::Rejected;
    };
    let local_names = LocalNames {
        data: &*NO_NAMES,
        domains: &[],
    };
    let given = match query.relay(&response, &local_names, 0) {
        QueryAction::Send(given) => given,
        other => panic!("without local names the resolver must reply, not {other:?}"),
    };
    let parsed = reply::check(&message, transport, &given);
    if parsed.answers.is_empty() && parsed.authorities.is_empty() {
        return RewrittenOutcome::Empty;
    }
    check_records(rewrite, &bytes, &given);
    RewrittenOutcome::Restored
}

/// Checks that each record of the reply is one of the upstream's, in the same section, with the
/// same TTL, and with the client's name in place of the one that was looked up.
fn check_records(rewrite: &Rewrite, sent: &[u8], given: &[u8]) {
    // The reader rejects some data that the resolver relays, and bytes after the message.
    let Ok(sent) = Message::read(sent) else {
        return;
    };
    let given = Message::read(given).expect("the reply can't be read, but the response can");
    for (sent, given) in sent.sections.iter().zip(&given.sections) {
        let heads: Vec<String> = sent
            .iter()
            .map(|line| rewrite.restored_head(line))
            .collect();
        for line in given {
            let head = head(&line.to_ascii_lowercase());
            assert!(heads.contains(&head), "{head} is not in {heads:?}");
        }
    }
    let first = given.sections[0]
        .first()
        .map(|line| line.to_ascii_lowercase());
    let asked = format!("{}. ", rewrite.asked.0.to_ascii_lowercase());
    assert!(
        first.is_none_or(|line| line.starts_with(&asked)),
        "the first record of the answer has another owner than {asked}"
    );
}

impl Rewrite {
    /// The head of a record with the client's name.
    fn restored_head(&self, line: &str) -> String {
        let line = head(&line.to_ascii_lowercase());
        let (owner, rest) = line.split_once(' ').unwrap_or_default();
        let before = owner.strip_suffix(self.found);
        let is_label_end = |before: &&str| {
            self.found.starts_with('.') || before.is_empty() || before.ends_with('.')
        };
        let restored = before.filter(is_label_end);
        let restored = restored.map(|before| format!("{before}{}", self.original));
        // A name that would be too long stays as it is.
        let fits = |name: &String| Name::parse(name).is_ok();
        let owner = restored.filter(fits).unwrap_or_else(|| owner.to_owned());
        format!("{owner} {rest}")
    }
}

/// Owner, TTL, class and type of a record's line.
fn head(line: &str) -> String {
    let words: Vec<&str> = line.splitn(5, ' ').take(4).collect();
    words.join(" ")
}
