//! Runs the checks of the fuzz targets on the inputs in `fuzz/corpus`. Unlike fuzzing, this takes
//! little time and needs no nightly compiler.

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "to the fuzz targets this is a library")]
mod checks;

use std::{collections::BTreeSet, fs, path::Path};

use checks::{cached::CachedOutcome, response::ResponseOutcome, rewritten::RewrittenOutcome};
use dns_common::Outcome;
use domain::base::Message;
use zerohop_resolver::message::QueryAction;

#[test]
fn the_message_corpus_reaches_every_action_and_rcode() {
    let mut rcodes = BTreeSet::new();
    let (mut ignored, mut forwarded, mut chased) = (0, 0, 0);
    for_each_input("message", |input| match checks::message::check(input) {
        QueryAction::Send(reply) => {
            let reply = Message::from_octets(reply).unwrap();
            rcodes.insert(reply.opt_rcode().to_int());
        }
        QueryAction::Ignore => ignored += 1,
        QueryAction::Forward(_) => forwarded += 1,
        QueryAction::Chase(_) => chased += 1,
    });
    // NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED, BADVERS.
    assert_eq!(rcodes, BTreeSet::from([0, 1, 3, 4, 5, 16]));
    assert!(
        ignored > 0 && forwarded > 0 && chased > 0,
        "{ignored} inputs were ignored, {forwarded} forwarded, {chased} chased"
    );
}

#[test]
fn the_response_corpus_reaches_every_outcome() {
    let mut outcomes = BTreeSet::new();
    for_each_input("response", |input| {
        outcomes.insert(checks::response::check(input));
    });
    let all = [
        ResponseOutcome::Rejected,
        ResponseOutcome::Relayed,
        ResponseOutcome::Completed,
    ];
    assert_eq!(outcomes, BTreeSet::from(all));
}

#[test]
fn the_cached_corpus_reaches_every_outcome() {
    let mut outcomes = BTreeSet::new();
    for_each_input("cached", |input| {
        outcomes.insert(checks::cached::check(input));
    });
    let all = [
        CachedOutcome::Rejected,
        CachedOutcome::NotKept,
        CachedOutcome::Fresh,
        CachedOutcome::Stale,
    ];
    assert_eq!(outcomes, BTreeSet::from(all));
}

#[test]
fn the_rewritten_corpus_reaches_every_outcome() {
    let mut outcomes = BTreeSet::new();
    for_each_input("rewritten", |input| {
        outcomes.insert(checks::rewritten::check(input));
    });
    let all = [
        RewrittenOutcome::Rejected,
        RewrittenOutcome::Empty,
        RewrittenOutcome::Restored,
    ];
    assert_eq!(outcomes, BTreeSet::from(all));
}

#[test]
fn the_kernel_corpus_reaches_every_outcome() {
    let mut outcomes = BTreeSet::new();
    for_each_input("kernel", |input| {
        outcomes.insert(checks::kernel::check(input));
    });
    // These outcomes depend on state outside the packet, which the check does not vary.
    let unreachable = [
        Outcome::LeaseStale,
        Outcome::NotReady,
        Outcome::Aggregated,
        Outcome::NotPermitted,
        Outcome::OverLimit,
        // Addresses with this outcome are outside the allowed networks, so they end as NotAllowed.
        Outcome::NonstandardSource,
    ];
    let missing: Vec<Outcome> = Outcome::ALL
        .into_iter()
        .filter(|outcome| !outcomes.contains(outcome) && !unreachable.contains(outcome))
        .collect();
    assert_eq!(missing, [], "no input of the corpus has these outcomes");
}

/// Calls `check` with each input of one target, in the order of file names.
fn for_each_input(target: &str, mut check: impl FnMut(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let folder = folder.join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        // When a check fails, the last printed line names its input.
        println!("{}", file.display());
        check(&fs::read(file).unwrap());
    }
}
