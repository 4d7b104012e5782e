//! The agreed differences between the resolver and CoreDNS. docs/resolver.md has the reasons.

use anyhow::{Result, ensure};

use crate::{
    corefile::is_within,
    reply_pair::{ReplyDifference, ReplyPair},
    script::{ANY, DS, PTR, SRV},
};

/// An agreed difference.
pub(crate) struct RouteDeviation {
    /// As in docs/resolver.md.
    pub(crate) summary: &'static str,
    difference: ReplyDifference,
    /// Whether this is the difference of two replies.
    explains: fn(&ReplyPair<'_>) -> bool,
}

const DEVIATIONS: [RouteDeviation; 24] = [
    RouteDeviation {
        summary: "special-use names are answered by the resolver",
        difference: ReplyDifference::ResponseCode,
        explains: is_special_answer,
    },
    RouteDeviation {
        summary: "special-use names are answered by the resolver",
        difference: ReplyDifference::Answer,
        explains: is_special_answer,
    },
    RouteDeviation {
        summary: "special-use names are answered by the resolver",
        difference: ReplyDifference::Authority,
        explains: is_special_answer,
    },
    RouteDeviation {
        summary: "special-use names are answered by the resolver",
        difference: ReplyDifference::AuthenticData,
        explains: is_special_answer,
    },
    RouteDeviation {
        summary: "special-use names are answered by the resolver",
        difference: ReplyDifference::Truncation,
        explains: is_special_answer,
    },
    RouteDeviation {
        summary: "AA is 0 in replies of upstreams",
        difference: ReplyDifference::Authoritative,
        explains: |pair| pair.coredns.reply.authoritative,
    },
    RouteDeviation {
        summary: "questions that CoreDNS answers come from its cache, with AA",
        difference: ReplyDifference::Authoritative,
        explains: |pair| {
            pair.zerohop.reply.authoritative && [ANY, DS, PTR].contains(&pair.question.rtype)
        },
    },
    RouteDeviation {
        summary: "AD is 0 in replies about failures of upstreams",
        difference: ReplyDifference::AuthenticData,
        explains: |pair| {
            let reply = &pair.zerohop.reply;
            !["NOERROR", "NXDOMAIN"].contains(&&*reply.rcode) && !reply.authentic_data
        },
    },
    RouteDeviation {
        summary: "AD is that of the upstream, whichever client asked first",
        difference: ReplyDifference::AuthenticData,
        explains: |pair| {
            let flags = pair.question.flags;
            pair.zerohop.reply.authentic_data && (flags.authentic_data || flags.dnssec_ok)
        },
    },
    RouteDeviation {
        summary: "truncated replies of upstreams are fetched over TCP",
        difference: ReplyDifference::Truncation,
        explains: |pair| pair.coredns.was_truncated,
    },
    RouteDeviation {
        summary: "datagrams have 1,232 bytes at most",
        difference: ReplyDifference::Truncation,
        explains: |pair| pair.zerohop.was_truncated && pair.coredns.length > 1232,
    },
    RouteDeviation {
        summary: "records that the question doesn't lead to are left out",
        difference: ReplyDifference::Answer,
        explains: |pair| {
            let relevant = pair.coredns.reply.relevant_answer(&pair.name());
            relevant == pair.zerohop.reply.answer
        },
    },
    RouteDeviation {
        summary: "aliases to names of the cluster are followed",
        difference: ReplyDifference::Answer,
        explains: leads_into_cluster,
    },
    RouteDeviation {
        summary: "aliases to names of the cluster are followed",
        difference: ReplyDifference::ResponseCode,
        explains: leads_into_cluster,
    },
    RouteDeviation {
        summary: "aliases to names of the cluster are followed",
        difference: ReplyDifference::Authority,
        explains: leads_into_cluster,
    },
    RouteDeviation {
        summary: "aliases to names of the cluster are followed",
        difference: ReplyDifference::AuthenticData,
        explains: leads_into_cluster,
    },
    RouteDeviation {
        summary: "an alias of the cluster to a name that doesn't exist gets NXDOMAIN",
        difference: ReplyDifference::ResponseCode,
        explains: |pair| {
            let (coredns, zerohop) = (&pair.coredns.reply, &pair.zerohop.reply);
            let codes = [&*coredns.rcode, &*zerohop.rcode];
            codes == ["NOERROR", "NXDOMAIN"]
                && zerohop.authoritative
                && !zerohop.answer.is_empty()
                && zerohop.answer == coredns.answer
        },
    },
    RouteDeviation {
        summary: "aliases to names of the cluster are followed",
        difference: ReplyDifference::Truncation,
        explains: leads_into_cluster,
    },
    RouteDeviation {
        summary: "records that the question doesn't lead to are left out",
        difference: ReplyDifference::Authority,
        explains: |pair| {
            let end = pair.coredns.reply.chain_end(&pair.name());
            let soa = &pair.coredns.reply.soa;
            let is_above = soa.iter().any(|it| is_within(&end, &it.owner));
            !is_above && pair.zerohop.reply.soa.is_empty()
        },
    },
    RouteDeviation {
        summary: "not all names in replies are compressed, so a reply may be truncated earlier",
        difference: ReplyDifference::Truncation,
        explains: |pair| {
            let limit = usize::from(pair.question.edns.unwrap_or(512)).clamp(512, 1232);
            pair.zerohop.was_truncated && pair.coredns.length > limit / 10 * 8
        },
    },
    RouteDeviation {
        summary: "CoreDNS deviations of names of the cluster, to which names are rewritten",
        difference: ReplyDifference::Answer,
        // Other types than A and AAAA of a Service of type ExternalName.
        explains: |pair| {
            let (coredns, zerohop) = (&pair.coredns.reply, &pair.zerohop.reply);
            coredns.answer.is_empty() && coredns.is_about_cluster() && zerohop.authoritative
        },
    },
    RouteDeviation {
        summary: "CoreDNS deviations of names of the cluster, to which names are rewritten",
        difference: ReplyDifference::ResponseCode,
        // Whether a name without records of the type exists.
        explains: |pair| {
            let (coredns, zerohop) = (&pair.coredns.reply, &pair.zerohop.reply);
            let codes = ["NXDOMAIN", "NOERROR"];
            codes.contains(&&*coredns.rcode)
                && codes.contains(&&*zerohop.rcode)
                && coredns.is_about_cluster()
                && coredns.answer.is_empty()
                && zerohop.answer.is_empty()
                && zerohop.soa == coredns.soa
        },
    },
    RouteDeviation {
        summary: "names in SRV records of the cluster are restored with DO too",
        difference: ReplyDifference::Answer,
        explains: |pair| {
            let (coredns, zerohop) = (&pair.coredns.reply, &pair.zerohop.reply);
            let mut left = coredns.answer.iter();
            pair.question.rtype == SRV
                && pair.question.flags.dnssec_ok
                && coredns.answer.len() == zerohop.answer.len()
                && left.all(|it| is_within(&it.owner, "cluster.local"))
                && zerohop.relevant_answer(&pair.name()) == zerohop.answer
        },
    },
    RouteDeviation {
        summary: "another server is asked after SERVFAIL",
        difference: ReplyDifference::ResponseCode,
        explains: |pair| {
            let codes = ["NOERROR", "NXDOMAIN"];
            let has_several = pair.shape.text.coredns["Corefile"].contains("203.0.113.2 ");
            pair.coredns.reply.rcode == "SERVFAIL"
                && codes.contains(&&*pair.zerohop.reply.rcode)
                && has_several
        },
    },
];

/// Fails if a deviation is not in the documentation.
pub(crate) fn check_documentation(text: &str) -> Result<()> {
    for RouteDeviation { summary, .. } in &DEVIATIONS {
        let is_listed = text.contains(&format!("\n| {summary} |"));
        ensure!(is_listed, "docs/resolver.md doesn't have: {summary}");
    }
    Ok(())
}

/// What the comparison of two replies says.
#[derive(Default)]
pub(crate) struct PairJudgement {
    pub(crate) deviations: Vec<&'static RouteDeviation>,
    /// What no rule allows, by kind.
    pub(crate) wrong: Vec<String>,
}

/// Explains the differences of two replies.
pub(crate) fn judge(pair: &ReplyPair<'_>) -> PairJudgement {
    let mut judgement = PairJudgement::default();
    for difference in pair.differences() {
        match find(difference, pair) {
            Some(deviation) => judgement.deviations.push(deviation),
            None => judgement.wrong.push(format!("{difference:?}")),
        }
    }
    judgement
}

/// The deviation that explains a difference.
fn find(difference: ReplyDifference, pair: &ReplyPair<'_>) -> Option<&'static RouteDeviation> {
    let mut deviations = DEVIATIONS.iter();
    deviations.find(|it| it.difference == difference && (it.explains)(pair))
}

/// Whether the CNAMEs of CoreDNS's answer end at a name of the cluster, and Zerohop's go on.
fn leads_into_cluster(pair: &ReplyPair<'_>) -> bool {
    let end = pair.coredns.reply.chain_end(&pair.name());
    let (coredns, zerohop) = (&pair.coredns.reply.answer, &pair.zerohop.reply.answer);
    end.ends_with(".cluster.local.") && coredns.is_subset(zerohop)
}

/// Whether the question is about a special-use name, and Zerohop's answer says so itself.
fn is_special_answer(pair: &ReplyPair<'_>) -> bool {
    let domains = ["localhost", "onion", "resolver.arpa"];
    let (name, reply) = (pair.name(), &pair.zerohop.reply);
    domains.iter().any(|domain| is_within(&name, domain)) && reply.authoritative
}
