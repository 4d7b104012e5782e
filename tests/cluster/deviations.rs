//! Rules that recognize CoreDNS deviations: the agreed differences between Zerohop and CoreDNS,
//! which `docs/answers.md` explains. `compare.rs` has one more, for omitted additional records.

use std::collections::HashSet;

use crate::{
    agent::AgentMode,
    objects::{LiveObjects, service_of},
    questions::{A, AAAA, CNAME, ComparedQuestion, PTR, SOA, SRV, is_at_or_below},
    reply::{ComparedReply, ReplyRecord},
};

/// A question that CoreDNS and Zerohop answered differently.
pub(crate) struct AnswerDifference<'a> {
    pub(crate) question: &'a ComparedQuestion,
    /// The queried name, in lower case.
    pub(crate) name: String,
    pub(crate) coredns: &'a ComparedReply,
    pub(crate) zerohop: &'a ComparedReply,
    pub(crate) mode: AgentMode,
    pub(crate) context: &'a ComparisonContext<'a>,
}

/// The cluster's zone and objects, and facts from the replies to all questions.
pub(crate) struct ComparisonContext<'a> {
    pub(crate) zone: &'a str,
    pub(crate) objects: &'a LiveObjects,
    /// Names for which CoreDNS answers queries for A records with NXDOMAIN.
    pub(crate) denied: HashSet<String>,
    /// Ancestors of names for which CoreDNS and every user plane have data.
    pub(crate) above: HashSet<String>,
}

/// A CoreDNS deviation.
pub(crate) struct Deviation {
    pub(crate) summary: &'static str,
    /// Whether this deviation explains a difference.
    matches: fn(&AnswerDifference<'_>) -> bool,
    covered: CoveredByFlag,
}

/// Whether `--pass-deviations` delegates the deviation's names to CoreDNS.
#[derive(PartialEq, Eq)]
enum CoveredByFlag {
    Yes,
    No,
}

pub(crate) const DEVIATIONS: [Deviation; 14] = [
    Deviation {
        summary: "other types at fixed names are NODATA",
        matches: at_fixed_name,
        covered: CoveredByFlag::Yes,
    },
    Deviation {
        summary: "empty non-terminals are NODATA",
        matches: at_empty_non_terminal,
        covered: CoveredByFlag::Yes,
    },
    Deviation {
        summary: "other types at reverse names, and partial reverse names, are NODATA",
        matches: at_reverse_name,
        covered: CoveredByFlag::Yes,
    },
    Deviation {
        summary: "SOA of an absent name is NXDOMAIN",
        matches: soa_of_absent_name,
        covered: CoveredByFlag::Yes,
    },
    Deviation {
        summary: "names below a pod's name are NXDOMAIN",
        matches: below_a_pod,
        covered: CoveredByFlag::Yes,
    },
    Deviation {
        summary: "port names without underscores are NXDOMAIN",
        matches: port_without_underscores,
        covered: CoveredByFlag::Yes,
    },
    Deviation {
        summary: "topology zones of several labels without an endpoint are NXDOMAIN",
        matches: unknown_topology_zone,
        covered: CoveredByFlag::Yes,
    },
    // RFC 1034 section 3.6.2.
    Deviation {
        summary: "other types at an ExternalName are its CNAME and the target's records",
        matches: other_type_of_an_alias,
        covered: CoveredByFlag::Yes,
    },
    // RFC 6604, RFC 2308 section 2.1. CoreDNS answers NOERROR, with or without the CNAME.
    Deviation {
        summary: "behind an alias, an upstream's NXDOMAIN is NXDOMAIN and its failure is SERVFAIL",
        matches: failure_behind_an_alias,
        covered: CoveredByFlag::No,
    },
    Deviation {
        summary: "targets of SRV records are in lower case",
        matches: srv_in_lower_case,
        covered: CoveredByFlag::No,
    },
    Deviation {
        summary: "compressed names have the letter case of the question",
        matches: compressed_name_case,
        covered: CoveredByFlag::No,
    },
    Deviation {
        summary: "verified pods have names for both address families",
        matches: pod_of_another_family,
        covered: CoveredByFlag::No,
    },
    // CoreDNS considers only the first endpoint, and the order of endpoints is not fixed. The user
    // plane asks CoreDNS, so it may get another one.
    Deviation {
        summary: "CoreDNS's CNAME for endpoints with domain names depends on their order",
        matches: cname_by_endpoint_order,
        covered: CoveredByFlag::No,
    },
    // CoreDNS searches the name for the zone, and takes the first match for the suffix.
    Deviation {
        summary: "names that only begin with ns.dns.<zone> are NXDOMAIN",
        matches: begins_with_the_name_server,
        covered: CoveredByFlag::No,
    },
];

/// The deviation that explains a difference, if there is one.
pub(crate) fn find_deviation(difference: &AnswerDifference<'_>) -> Option<&'static Deviation> {
    let explains = |deviation: &&Deviation| {
        let is_expected =
            difference.mode != AgentMode::PassDeviations || deviation.covered == CoveredByFlag::No;
        is_expected && (deviation.matches)(difference)
    };
    DEVIATIONS.iter().find(explains)
}

fn at_fixed_name(difference: &AnswerDifference<'_>) -> bool {
    let fixed = ["svc", "pod", "dns", "ns.dns", "dns-version"];
    let labels = difference.labels();
    let is_fixed = match labels.as_deref() {
        Some([]) => true,
        // A namespace, which exists unless CoreDNS answers NXDOMAIN for its A record.
        Some([_, "svc" | "pod"]) => !difference.context.denied.contains(&difference.name),
        Some(labels) => fixed.contains(&labels.join(".").as_str()),
        None => false,
    };
    is_fixed && difference.is_nodata_instead_of_nxdomain()
}

fn at_empty_non_terminal(difference: &AnswerDifference<'_>) -> bool {
    let labels = difference.labels();
    // Names of topology zones are below these, also of zones without endpoints.
    let is_zonal = matches!(
        labels.as_deref(),
        Some(["_zone", _, _, "svc"] | ["pin" | "prefer", "_zone", _, _, "svc"])
    );
    labels.is_some()
        && (is_zonal || difference.context.above.contains(&difference.name))
        && difference.is_nodata_instead_of_nxdomain()
}

fn at_reverse_name(difference: &AnswerDifference<'_>) -> bool {
    let name = &difference.name;
    let is_reverse = ["in-addr.arpa", "ip6.arpa"]
        .iter()
        .any(|zone| is_at_or_below(name, zone));
    is_reverse
        && (difference.question.rtype != PTR || difference.context.above.contains(name))
        && difference.is_nodata_instead_of_nxdomain()
}

fn soa_of_absent_name(difference: &AnswerDifference<'_>) -> bool {
    difference.question.rtype == SOA
        && difference.context.denied.contains(&difference.name)
        && difference.coredns.is_nodata()
        && difference.zerohop.is_nxdomain()
        && difference.differs_only_in_rcode()
}

fn below_a_pod(difference: &AnswerDifference<'_>) -> bool {
    let labels = difference.labels();
    let Some([front @ .., pod, _, "pod"]) = labels.as_deref() else {
        return false;
    };
    let is_address = pod.contains('-')
        && pod
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit());
    // CoreDNS ignores one or two labels in front of a pod's name.
    is_address
        && (1..=2).contains(&front.len())
        && difference.coredns.rcode == "NOERROR"
        && difference.zerohop.is_nxdomain()
}

fn port_without_underscores(difference: &AnswerDifference<'_>) -> bool {
    let labels = difference.labels();
    let Some([port, protocol, _, _, "svc"]) = labels.as_deref() else {
        return false;
    };
    // CoreDNS strips one underscore. The empty rest of `_` matches every port.
    let lacks_underscore = |label: &str| !label.starts_with('_') || label == "_";
    (lacks_underscore(port) || lacks_underscore(protocol))
        && difference.coredns.rcode == "NOERROR"
        && difference.zerohop.is_nxdomain()
}

fn unknown_topology_zone(difference: &AnswerDifference<'_>) -> bool {
    let labels = difference.labels();
    let Some([_, _, .., "pin" | "prefer", "_zone", _, _, "svc"]) = labels.as_deref() else {
        return false;
    };
    difference.coredns.rcode == "NOERROR" && difference.zerohop.is_nxdomain()
}

/// Checks only the CNAME, because an upstream decides the other records of an answer that leads to
/// a target outside the zone.
fn other_type_of_an_alias(difference: &AnswerDifference<'_>) -> bool {
    let is_address_or_cname = matches!(difference.question.rtype, A | AAAA | CNAME);
    !is_address_or_cname && difference.is_answered_alias() && difference.coredns.is_nodata()
}

fn failure_behind_an_alias(difference: &AnswerDifference<'_>) -> bool {
    let AnswerDifference {
        coredns, zerohop, ..
    } = difference;
    let is_denied = zerohop.is_nxdomain() && zerohop.authoritative;
    let has_failed = zerohop.rcode == "SERVFAIL" && !zerohop.authoritative;
    let is_cname = |record: &ReplyRecord| record.rtype == "CNAME";
    (is_denied || has_failed)
        && difference.is_answered_alias()
        && coredns.rcode == "NOERROR"
        && coredns.answer().iter().all(is_cname)
}

fn srv_in_lower_case(difference: &AnswerDifference<'_>) -> bool {
    let zerohop = difference.zerohop;
    let is_lower = |text: &str| !text.bytes().any(|byte| byte.is_ascii_uppercase());
    difference.question.rtype == SRV
        && difference.differs_in_letter_case()
        && zerohop.answer().iter().all(|record| is_lower(&record.data))
}

fn compressed_name_case(difference: &AnswerDifference<'_>) -> bool {
    let asked = format!(".{}.", difference.question.name);
    // A name with the same suffix as the question may be written with a pointer to the question.
    let has_question_case = |record: &ReplyRecord| {
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
        && difference.zerohop.answer().iter().all(has_question_case)
}

fn pod_of_another_family(difference: &AnswerDifference<'_>) -> bool {
    let labels = difference.labels();
    let Some([pod, namespace, "pod"]) = labels.as_deref() else {
        return false;
    };
    let label = |address: &str| address.replace(['.', ':'], "-");
    // CoreDNS knows only a pod's first address.
    let mut pods = difference.context.objects.pods.iter();
    let is_second = pods.any(|((other, _), object)| {
        let addresses = object
            .status
            .iter()
            .flat_map(|status| status.pod_ips.iter().flatten());
        other == namespace && addresses.skip(1).any(|address| label(&address.ip) == *pod)
    });
    is_second && difference.coredns.is_nxdomain() && difference.zerohop.rcode == "NOERROR"
}

fn cname_by_endpoint_order(difference: &AnswerDifference<'_>) -> bool {
    let slices = difference.context.objects.slices.values();
    let about: Vec<_> = slices
        .filter(|slice| {
            let service = service_of(slice);
            service.is_some_and(|(namespace, service)| {
                format!(".{}", difference.name).contains(&format!(".{service}.{namespace}.svc."))
            })
        })
        .collect();
    let kinds: HashSet<bool> = about
        .iter()
        .map(|slice| slice.address_type == "FQDN")
        .collect();
    let domain_names: HashSet<String> = about
        .iter()
        .filter(|slice| slice.address_type == "FQDN")
        .flat_map(|slice| {
            slice
                .endpoints
                .iter()
                .flat_map(|endpoint| &endpoint.addresses)
        })
        .map(|address| format!("{}.", address.to_ascii_lowercase()))
        .collect();
    let AnswerDifference {
        coredns, zerohop, ..
    } = difference;
    let is_of_an_endpoint = |reply: &ComparedReply| {
        let mut records = reply.answer().iter();
        records.all(|record| domain_names.contains(&record.data.to_ascii_lowercase()))
    };
    let differs_by_order = if coredns.has_data() && zerohop.has_data() {
        is_of_an_endpoint(coredns) && is_of_an_endpoint(zerohop)
    } else {
        kinds.len() == 2 && coredns.has_data() != zerohop.has_data()
    };
    difference.question.rtype == CNAME
        && coredns.rcode == "NOERROR"
        && zerohop.rcode == "NOERROR"
        && differs_by_order
}

fn begins_with_the_name_server(difference: &AnswerDifference<'_>) -> bool {
    let server = format!("ns.dns.{}.", difference.context.zone);
    difference.name.starts_with(&server)
        && difference.coredns.rcode == "NOERROR"
        && difference.zerohop.is_nxdomain()
}

impl AnswerDifference<'_> {
    /// The labels left of the zone; `None` if the name is outside the zone.
    fn labels(&self) -> Option<Vec<&str>> {
        let labels = self.name.strip_suffix(self.context.zone)?;
        let is_inside = is_at_or_below(&self.name, self.context.zone);
        let labels = labels.split('.').filter(|label| !label.is_empty());
        is_inside.then(|| labels.collect())
    }

    /// Whether the name is an ExternalName Service's, and Zerohop's answer has its CNAME.
    fn is_answered_alias(&self) -> bool {
        let labels = self.labels();
        let Some([service, namespace, "svc"]) = labels.as_deref() else {
            return false;
        };
        let mut services = self.context.objects.services.iter();
        let is_alias = services.any(|((other, name), object)| {
            let kind = object.spec.as_ref().and_then(|spec| spec.type_.as_deref());
            other == namespace && name == service && kind == Some("ExternalName")
        });
        let is_here = |record: &ReplyRecord| {
            let owner = record.owner.trim_end_matches('.');
            record.rtype == "CNAME" && owner.eq_ignore_ascii_case(&self.name)
        };
        is_alias && self.zerohop.answer().iter().any(is_here)
    }

    fn is_nodata_instead_of_nxdomain(&self) -> bool {
        self.coredns.is_nxdomain() && self.zerohop.is_nodata() && self.differs_only_in_rcode()
    }

    /// Whether the question has upper-case letters, the replies differ only in letter case, and
    /// Zerohop copies the letter case of the question to owner names that are the queried name.
    fn differs_in_letter_case(&self) -> bool {
        let AnswerDifference {
            coredns, zerohop, ..
        } = self;
        let lowered = |records: &[ReplyRecord]| {
            let mut records: Vec<ReplyRecord> =
                records.iter().map(ReplyRecord::in_lower_case).collect();
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

    fn differs_only_in_rcode(&self) -> bool {
        let AnswerDifference {
            coredns, zerohop, ..
        } = self;
        coredns.sections == zerohop.sections && coredns.authoritative == zerohop.authoritative
    }
}
