//! The fuzz targets' checks over the inputs that are kept in `fuzz/corpus`: fuzzing needs a nightly compiler and time,
//! this needs neither.

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "to the fuzz targets this is a library")]
mod checks;

use std::{collections::BTreeSet, fs, path::Path};

use dns_agent::resolver::message::Reply;
use dns_common::Outcome;
use domain::base::Message;

use checks::response::Ended;

#[test]
fn messages() {
    let mut rcodes = BTreeSet::new();
    let (mut ignored, mut forwarded, mut chased) = (0, 0, 0);
    for_each("message", |input| match checks::message::check(input) {
        Reply::Message(reply) => {
            let reply = Message::from_octets(reply).unwrap();
            rcodes.insert(reply.opt_rcode().to_int());
        }
        Reply::Ignore => ignored += 1,
        Reply::Forward(_) => forwarded += 1,
        Reply::Chase(_) => chased += 1,
    });
    // NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED, BADVERS.
    assert_eq!(rcodes, BTreeSet::from([0, 1, 3, 4, 5, 16]));
    assert!(ignored > 0 && forwarded > 0 && chased > 0);
}

#[test]
fn responses_of_upstreams() {
    let mut ended = BTreeSet::new();
    for_each("response", |input| {
        ended.insert(checks::response::check(input));
    });
    let all = [Ended::Unheard, Ended::Relayed, Ended::Completed];
    assert_eq!(ended, BTreeSet::from(all));
}

#[test]
fn packets() {
    let mut outcomes = BTreeSet::new();
    for_each("kernel", |input| {
        outcomes.insert(checks::kernel::check(input));
    });
    // These come not from a packet but from what is around it; the tables here restrict nobody.
    let elsewhere = [
        Outcome::LeaseStale,
        Outcome::NotReady,
        Outcome::Aggregated,
        Outcome::NotPermitted,
        Outcome::OverLimit,
        // No network that is allowed here has such an address.
        Outcome::OddSource,
    ];
    let missing: Vec<Outcome> = Outcome::ALL
        .into_iter()
        .filter(|outcome| !outcomes.contains(outcome) && !elsewhere.contains(outcome))
        .collect();
    assert_eq!(missing, [], "no input of the corpus ends in these ways");
}

/// Hands over the inputs of one target, in the same order each time.
fn for_each(target: &str, mut check: impl FnMut(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    let folder = folder.join(target);
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    for file in files {
        // When a check fails, the last of these lines says over which input.
        println!("{}", file.display());
        check(&fs::read(file).unwrap());
    }
}
