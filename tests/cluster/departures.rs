//! Where Zerohop answers otherwise than CoreDNS, as agreed: a rule for each bullet of the list in
//! `docs/answers.md`.

use std::collections::HashSet;

use crate::{
    agent::Mode,
    objects::{Objects, service_of},
    questions::{Question, is_at_or_below},
    reply::{Record, Reply},
};

/// A question that was answered in two ways.
pub(crate) struct Difference<'a> {
    pub(crate) question: &'a Question,
    /// The name asked for, in lower case.
    pub(crate) name: String,
    pub(crate) coredns: &'a Reply,
    pub(crate) zerohop: &'a Reply,
    pub(crate) mode: Mode,
    pub(crate) known: &'a Known<'a>,
}

/// What CoreDNS's other replies say, and what was written.
pub(crate) struct Known<'a> {
    pub(crate) zone: &'a str,
    pub(crate) objects: &'a Objects,
    /// Names that CoreDNS denies when they are asked for addresses.
    pub(crate) denied: HashSet<String>,
    /// Names above those that both have data of.
    pub(crate) above: HashSet<String>,
}

/// A departure, and how to tell it.
pub(crate) struct Departure {
    pub(crate) what: &'static str,
    is: fn(&Difference<'_>) -> bool,
    /// Whether it is there with `--pass-departures` too.
    passed: Passed,
}

/// Whether `--pass-departures` leaves it to CoreDNS.
#[derive(PartialEq, Eq)]
enum Passed {
    Yes,
    No,
}

pub(crate) const DEPARTURES: [Departure; 14] = [
    Departure {
        what: "other types at names that are always there are NODATA",
        is: at_a_fixed_name,
        passed: Passed::Yes,
    },
    Departure {
        what: "names with names below them are NODATA",
        is: above_a_name,
        passed: Passed::Yes,
    },
    Departure {
        what: "other types at reverse names, and partial ones, are NODATA",
        is: at_a_reverse_name,
        passed: Passed::Yes,
    },
    Departure {
        what: "SOA of a name that doesn't exist is NXDOMAIN",
        is: soa_of_nothing,
        passed: Passed::Yes,
    },
    Departure {
        what: "labels in front of a pod's address are NXDOMAIN",
        is: below_a_pod,
        passed: Passed::Yes,
    },
    Departure {
        what: "ports without underscores are NXDOMAIN",
        is: port_without_underscores,
        passed: Passed::Yes,
    },
    Departure {
        what: "topology zones of several labels that nobody is in are NXDOMAIN",
        is: unknown_topology_zone,
        passed: Passed::Yes,
    },
    // RFC 1034 section 3.6.2.
    Departure {
        what: "other types at an ExternalName are its CNAME, and what is behind it",
        is: other_type_of_an_alias,
        passed: Passed::Yes,
    },
    // RFC 6604, RFC 2308 section 2.1. CoreDNS says NOERROR, with or without the CNAME.
    Departure {
        what: "what an upstream denies behind an alias is NXDOMAIN, and its failure SERVFAIL",
        is: failure_behind_an_alias,
        passed: Passed::No,
    },
    Departure {
        what: "targets of SRV records are in lower case",
        is: srv_in_lower_case,
        passed: Passed::No,
    },
    Departure {
        what: "names that are compressed are spelt as in the question",
        is: compressed,
        passed: Passed::No,
    },
    Departure {
        what: "verified pods are known by both families",
        is: pod_of_another_family,
        passed: Passed::No,
    },
    // CoreDNS looks at the endpoint alone that comes first, in whatever order it has them.
    Departure {
        what: "CoreDNS doesn't agree with itself about the CNAME of addresses and domain names",
        is: cname_by_chance,
        passed: Passed::No,
    },
    // CoreDNS looks for the zone in a name, and takes the first place for the last.
    Departure {
        what: "names that only begin with ns.dns.<zone> are NXDOMAIN",
        is: begins_with_the_name_server,
        passed: Passed::No,
    },
];

/// The departure that a difference is, if it is one.
pub(crate) fn departure(difference: &Difference<'_>) -> Option<&'static Departure> {
    let departs = |departure: &&Departure| {
        let is_there = difference.mode != Mode::PassDepartures || departure.passed == Passed::No;
        is_there && (departure.is)(difference)
    };
    DEPARTURES.iter().find(departs)
}

fn at_a_fixed_name(difference: &Difference<'_>) -> bool {
    let fixed = ["svc", "pod", "dns", "ns.dns", "dns-version"];
    let labels = difference.labels();
    let is_fixed = match labels.as_deref() {
        Some([]) => true,
        Some([_, "svc" | "pod"]) => !difference.known.denied.contains(&difference.name),
        Some(labels) => fixed.contains(&labels.join(".").as_str()),
        None => false,
    };
    is_fixed && difference.is_nodata_instead_of_nxdomain()
}

fn above_a_name(difference: &Difference<'_>) -> bool {
    let labels = difference.labels();
    // Below these any topology zone is a name.
    let is_zonal = matches!(
        labels.as_deref(),
        Some(["_zone", _, _, "svc"] | ["pin" | "prefer", "_zone", _, _, "svc"])
    );
    labels.is_some()
        && (is_zonal || difference.known.above.contains(&difference.name))
        && difference.is_nodata_instead_of_nxdomain()
}

fn at_a_reverse_name(difference: &Difference<'_>) -> bool {
    let name = &difference.name;
    let is_reverse = ["in-addr.arpa", "ip6.arpa"]
        .iter()
        .any(|zone| is_at_or_below(name, zone));
    is_reverse
        && (difference.question.rtype != PTR || difference.known.above.contains(name))
        && difference.is_nodata_instead_of_nxdomain()
}

fn soa_of_nothing(difference: &Difference<'_>) -> bool {
    difference.question.rtype == SOA
        && difference.known.denied.contains(&difference.name)
        && difference.coredns.is_nodata()
        && difference.zerohop.is_nxdomain()
        && difference.same_but_for_rcode()
}

fn below_a_pod(difference: &Difference<'_>) -> bool {
    let labels = difference.labels();
    let Some([front @ .., pod, _, "pod"]) = labels.as_deref() else {
        return false;
    };
    let is_address = pod.contains('-')
        && pod
            .bytes()
            .all(|octet| octet == b'-' || octet.is_ascii_hexdigit());
    is_address
        && (1..=2).contains(&front.len())
        && difference.coredns.rcode == "NOERROR"
        && difference.zerohop.is_nxdomain()
}

fn port_without_underscores(difference: &Difference<'_>) -> bool {
    let labels = difference.labels();
    let Some([port, protocol, _, _, "svc"]) = labels.as_deref() else {
        return false;
    };
    // CoreDNS takes one underscore off, and what is left over of `_` fits every port.
    let is_odd = |label: &str| !label.starts_with('_') || label == "_";
    (is_odd(port) || is_odd(protocol))
        && difference.coredns.rcode == "NOERROR"
        && difference.zerohop.is_nxdomain()
}

fn unknown_topology_zone(difference: &Difference<'_>) -> bool {
    let labels = difference.labels();
    let Some([_, _, .., "pin" | "prefer", "_zone", _, _, "svc"]) = labels.as_deref() else {
        return false;
    };
    difference.coredns.rcode == "NOERROR" && difference.zerohop.is_nxdomain()
}

/// Where the target is outside, what an upstream says of it decides.
fn other_type_of_an_alias(difference: &Difference<'_>) -> bool {
    let is_address = matches!(difference.question.rtype, A | AAAA | CNAME);
    !is_address && difference.is_alias_here() && difference.coredns.is_nodata()
}

fn failure_behind_an_alias(difference: &Difference<'_>) -> bool {
    let Difference {
        coredns, zerohop, ..
    } = difference;
    let is_denied = zerohop.is_nxdomain() && zerohop.authoritative;
    let has_failed = zerohop.rcode == "SERVFAIL" && !zerohop.authoritative;
    let is_cname = |record: &Record| record.rtype == "CNAME";
    (is_denied || has_failed)
        && difference.is_alias_here()
        && coredns.rcode == "NOERROR"
        && coredns.answer().iter().all(is_cname)
}

fn srv_in_lower_case(difference: &Difference<'_>) -> bool {
    let zerohop = difference.zerohop;
    let is_lower = |text: &str| !text.bytes().any(|octet| octet.is_ascii_uppercase());
    difference.question.rtype == SRV
        && difference.differs_in_letter_case()
        && zerohop.answer().iter().all(|record| is_lower(&record.data))
}

fn compressed(difference: &Difference<'_>) -> bool {
    let asked = format!(".{}.", difference.question.name);
    // A name that ends as the question does may be written with a pointer to that.
    let is_spelt_so = |record: &Record| {
        let name = format!(".{}", record.data);
        let labels = name.match_indices('.').map(|(at, _)| &name[at..]);
        let shared = labels.clone().find(|end| {
            asked
                .to_ascii_lowercase()
                .ends_with(&end.to_ascii_lowercase())
        });
        shared.is_none_or(|end| asked.ends_with(end))
    };
    difference.question.rtype != SRV
        && difference.differs_in_letter_case()
        && difference.zerohop.answer().iter().all(is_spelt_so)
}

fn pod_of_another_family(difference: &Difference<'_>) -> bool {
    let labels = difference.labels();
    let Some([pod, namespace, "pod"]) = labels.as_deref() else {
        return false;
    };
    let label = |address: &str| address.replace(['.', ':'], "-");
    // CoreDNS knows a pod's first address.
    let mut pods = difference.known.objects.pods.iter();
    let is_second = pods.any(|((other, _), object)| {
        let addresses = object
            .status
            .iter()
            .flat_map(|status| status.pod_ips.iter().flatten());
        other == namespace && addresses.skip(1).any(|address| label(&address.ip) == *pod)
    });
    is_second && difference.coredns.is_nxdomain() && difference.zerohop.rcode == "NOERROR"
}

fn cname_by_chance(difference: &Difference<'_>) -> bool {
    let Difference {
        coredns, zerohop, ..
    } = difference;
    let slices = difference.known.objects.slices.values();
    let about = slices.filter(|slice| {
        let service = service_of(slice);
        service.is_some_and(|(namespace, service)| {
            format!(".{}", difference.name).contains(&format!(".{service}.{namespace}.svc."))
        })
    });
    let kinds: HashSet<bool> = about.map(|slice| slice.address_type == "FQDN").collect();
    difference.question.rtype == CNAME
        && kinds.len() == 2
        && coredns.rcode == "NOERROR"
        && zerohop.rcode == "NOERROR"
        && coredns.has_data() != zerohop.has_data()
}

fn begins_with_the_name_server(difference: &Difference<'_>) -> bool {
    let server = format!("ns.dns.{}.", difference.known.zone);
    difference.name.starts_with(&server)
        && difference.coredns.rcode == "NOERROR"
        && difference.zerohop.is_nxdomain()
}

impl Difference<'_> {
    /// The labels left of the zone; none when the name is outside.
    fn labels(&self) -> Option<Vec<&str>> {
        let labels = self.name.strip_suffix(self.known.zone)?;
        let is_inside = is_at_or_below(&self.name, self.known.zone);
        let labels = labels.split('.').filter(|label| !label.is_empty());
        is_inside.then(|| labels.collect())
    }

    /// Whether the name is an ExternalName's, and its CNAME is what Zerohop's answer begins with.
    fn is_alias_here(&self) -> bool {
        let labels = self.labels();
        let Some([service, namespace, "svc"]) = labels.as_deref() else {
            return false;
        };
        let mut services = self.known.objects.services.iter();
        let is_alias = services.any(|((other, name), object)| {
            let kind = object.spec.as_ref().and_then(|spec| spec.type_.as_deref());
            other == namespace && name == service && kind == Some("ExternalName")
        });
        let is_here = |record: &Record| {
            let owner = record.owner.trim_end_matches('.');
            record.rtype == "CNAME" && owner.eq_ignore_ascii_case(&self.name)
        };
        is_alias && self.zerohop.answer().iter().any(is_here)
    }

    fn is_nodata_instead_of_nxdomain(&self) -> bool {
        self.coredns.is_nxdomain() && self.zerohop.is_nodata() && self.same_but_for_rcode()
    }

    /// Whether the replies are the same but for the spelling of names, with the owner as it was asked.
    fn differs_in_letter_case(&self) -> bool {
        let Difference {
            coredns, zerohop, ..
        } = self;
        let lowered = |records: &[Record]| {
            let mut records: Vec<Record> = records.iter().map(Record::lowered).collect();
            records.sort();
            records
        };
        let is_same = |at: usize| lowered(&coredns.sections[at]) == lowered(&zerohop.sections[at]);
        let owners = zerohop
            .answer()
            .iter()
            .map(|record| record.owner.trim_end_matches('.'));
        let mut asked = owners.filter(|owner| owner.eq_ignore_ascii_case(&self.name));
        self.question.name != self.name
            && coredns.rcode == zerohop.rcode
            && coredns.authoritative == zerohop.authoritative
            && asked.all(|owner| owner == self.question.name)
            && (0..3).all(is_same)
    }

    fn same_but_for_rcode(&self) -> bool {
        let Difference {
            coredns, zerohop, ..
        } = self;
        coredns.sections == zerohop.sections && coredns.authoritative == zerohop.authoritative
    }
}

const A: u16 = 1;
const AAAA: u16 = 28;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const PTR: u16 = 12;
const SRV: u16 = 33;
