//! The replies of CoreDNS and the agent to a question.

use anyhow::Result;

use crate::{
    corefile::{RouteShape, is_within},
    exchange::RouteClient,
    processes::ComparedServers,
    questions::RouteQuestion,
    reply::RouteReply,
};

/// Two replies to a question.
pub(crate) struct ReplyPair<'a> {
    pub(crate) question: &'a RouteQuestion,
    pub(crate) shape: &'a RouteShape,
    pub(crate) coredns: FollowedReply,
    pub(crate) zerohop: FollowedReply,
}

/// A reply, and the reply over TCP if it was truncated.
pub(crate) struct FollowedReply {
    pub(crate) was_truncated: bool,
    pub(crate) reply: RouteReply,
    /// The length of the first reply, in bytes.
    pub(crate) length: usize,
}

impl FollowedReply {
    fn ask(client: &RouteClient, question: &RouteQuestion) -> Result<FollowedReply> {
        let bytes = client.ask(question)?;
        let first = RouteReply::read(&bytes)?;
        let was_truncated = first.truncated;
        let reply = match was_truncated {
            true => RouteReply::read(&client.ask_over_tcp(question)?)?,
            false => first,
        };
        Ok(FollowedReply {
            was_truncated,
            reply,
            length: bytes.len(),
        })
    }

    fn describe_first(&self) -> String {
        let tc = if self.was_truncated {
            ", truncated"
        } else {
            ""
        };
        format!("{} bytes{tc}", self.length)
    }
}

impl<'a> ReplyPair<'a> {
    /// Asks CoreDNS, and then the agent.
    pub(crate) fn ask(
        servers: &ComparedServers,
        shape: &'a RouteShape,
        question: &'a RouteQuestion,
    ) -> Result<ReplyPair<'a>> {
        Ok(ReplyPair {
            question,
            shape,
            coredns: FollowedReply::ask(&servers.coredns, question)?,
            zerohop: FollowedReply::ask(&servers.zerohop, question)?,
        })
    }

    /// The name of the question, in lower case, with a final dot.
    pub(crate) fn name(&self) -> String {
        format!("{}.", self.question.lower_name())
    }

    /// The parts in which the replies differ.
    pub(crate) fn differences(&self) -> Vec<ReplyDifference> {
        let (coredns, zerohop) = (&self.coredns.reply, &self.zerohop.reply);
        let mut found = Vec::new();
        let is_negative = coredns.answer.is_empty() || coredns.rcode != "NOERROR";
        if coredns.rcode != zerohop.rcode {
            found.push(ReplyDifference::ResponseCode);
        } else if coredns.answer != zerohop.answer {
            found.push(ReplyDifference::Answer);
        } else if is_negative && coredns.soa != zerohop.soa {
            found.push(ReplyDifference::Authority);
        } else {
            if coredns.authoritative != zerohop.authoritative {
                found.push(ReplyDifference::Authoritative);
            }
            if coredns.authentic_data != zerohop.authentic_data {
                found.push(ReplyDifference::AuthenticData);
            }
        }
        if self.coredns.was_truncated != self.zerohop.was_truncated {
            found.push(ReplyDifference::Truncation);
        }
        if self.has_high_ttl() {
            found.push(ReplyDifference::Ttl);
        }
        if zerohop.truncated {
            found.push(ReplyDifference::TruncatedOverTcp);
        }
        found
    }

    /// Whether a TTL of Zerohop is higher than the Corefile allows. What is behind a name of the
    /// cluster is looked up by the zone of its own name.
    fn has_high_ttl(&self) -> bool {
        let is_cluster = |name: &str| is_within(name, "cluster.local");
        let name = self.question.lower_name();
        let ttls = &self.zerohop.reply.max_ttls;
        // Rewritten names may be in no zone of `cache`.
        let coredns = self.coredns.reply.max_ttls.values().max().copied();
        let cap = self.shape.max_ttl(&name).max(coredns.unwrap_or(0));
        let passes_cluster = ttls.keys().any(|owner| is_cluster(owner));
        let is_high = |(owner, ttl): (&String, &u32)| {
            let own = passes_cluster.then(|| self.shape.max_ttl(owner));
            *ttl > own.unwrap_or(0).max(cap)
        };
        !is_cluster(&name) && ttls.iter().any(is_high)
    }

    /// The question and the replies, for people.
    pub(crate) fn describe(&self) -> String {
        format!(
            "  {:?}\n   CoreDNS, {}\n{}   Zerohop, {}\n{}",
            self.question,
            self.coredns.describe_first(),
            self.coredns.reply,
            self.zerohop.describe_first(),
            self.zerohop.reply
        )
    }
}

/// The parts in which replies differ. If the response codes differ, or else the answers, the parts
/// that depend on them are not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyDifference {
    ResponseCode,
    Answer,
    Authority,
    Authoritative,
    AuthenticData,
    /// Only one of the replies over UDP is truncated.
    Truncation,
    /// A TTL of Zerohop is higher than the Corefile allows.
    Ttl,
    TruncatedOverTcp,
}
