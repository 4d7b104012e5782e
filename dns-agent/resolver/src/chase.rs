//! Turns an upstream's response into the client's answer.
//!
//! A failure of an upstream (no response, a response code other than NOERROR and NXDOMAIN, a
//! referral) becomes SERVFAIL, never a negative answer. If an upstream denies the target of a local
//! alias, the reply has the CNAMEs and a negative answer (RFC 6604, RFC 2308 section 2.1): the
//! response code is for the last name, AA is for the first name (RFC 1035 section 4.1.1), and the
//! SOA record is the upstream's.

use std::collections::HashSet;

use domain::base::iana::{OptRcode, Rtype};
use zerohop_zone::{Answer, Name, Rdata, Record, render_sections};

use super::{
    bailiwick::{ChainEnd, LocalNames, RelevantRecords},
    header::{self, AUTHORITATIVE, HEADER_LEN, RECURSION_AVAILABLE, RESERVED, TRUNCATED},
    message::{Chase, QueryAction},
    query::{Query, Transport},
    response::Response,
};

/// Upper bound on upstream queries for one client query.
const MAX_UPSTREAM_QUERIES: usize = 4;
/// Upper bound on CNAMEs in the answer section.
const MAX_CHAIN: usize = 64;

impl Query {
    /// Converts the upstream's response to the client's reply: with the client's ID and the
    /// question in the client's casing, the resolver's OPT record, and the reserved bit clear. The
    /// reply fits the client's limit, and records that don't belong to the question are left out.
    pub fn relay(
        &self,
        response: &Response,
        local_names: &LocalNames<'_>,
        rotation: usize,
    ) -> QueryAction {
        // A TCP client can't retry over a transport with a larger limit.
        if response.is_truncated() && self.transport == Transport::Tcp {
            return QueryAction::Send(self.error(OptRcode::SERVFAIL));
        }
        let Some(found) = response.relevant_records(&self.name, self.qtype, local_names) else {
            return QueryAction::Send(self.error(OptRcode::SERVFAIL));
        };
        if found.chain_end == ChainEnd::Local && response.is_answer() {
            let chase = Chase {
                query: self.clone(),
                chain: found.answer,
                target: found.last_name,
                flags: response.flags(AUTHORITATIVE | RECURSION_AVAILABLE),
                upstream_queries: 1,
            };
            return chase.continue_locally(local_names, rotation);
        }
        let (rcode, flags) = (response.rcode(), response.flags(!RESERVED));
        if found.left_out == 0 {
            let mut message = response.message().to_vec();
            message[..2].copy_from_slice(&self.id.to_be_bytes());
            header::clear_flags(&mut message, RESERVED);
            message[HEADER_LEN..HEADER_LEN + self.question.len()].copy_from_slice(&self.question);
            return QueryAction::Send(self.finish_message(message, rcode.ext()));
        }
        let RelevantRecords {
            answer,
            authority,
            additional,
            ..
        } = found;
        let records = [&answer[..], &authority, &additional];
        let sections = render_sections(&self.name, records, rotation);
        QueryAction::Send(self.assemble(flags, rcode.ext(), &sections))
    }
}

impl Chase {
    /// Starts the chase of a local alias whose CNAMEs lead to `target`.
    pub(super) fn new(query: Query, chain: Vec<Record>, target: Name) -> Chase {
        Chase {
            query,
            chain,
            target,
            flags: AUTHORITATIVE,
            upstream_queries: 0,
        }
    }

    /// Continues with an upstream's response for the target. `None`: there was no response.
    pub fn complete(
        mut self,
        response: Option<&Response>,
        local_names: &LocalNames<'_>,
        rotation: usize,
    ) -> QueryAction {
        self.upstream_queries += 1;
        let Some(response) = response.filter(|response| response.is_answer()) else {
            return self.servfail();
        };
        // A TCP client can't retry over a transport with a larger limit.
        if response.is_truncated() && self.query.transport == Transport::Tcp {
            return self.servfail();
        }
        let qtype = self.query.qtype;
        let Some(found) = response.relevant_records(&self.target, qtype, local_names) else {
            return self.servfail();
        };
        let is_data = |record: &Record| record.data.rtype() == qtype;
        let has_data = found.answer.iter().any(is_data);
        self.chain.extend(found.answer);
        match found.chain_end {
            ChainEnd::Endless => return self.servfail(),
            ChainEnd::Local => {
                self.target = found.last_name;
                return self.continue_locally(local_names, rotation);
            }
            ChainEnd::Upstream => {}
        }
        let rcode = response.rcode();
        let truncated = response.flags(TRUNCATED);
        if has_data {
            return match rcode {
                OptRcode::NOERROR => self.reply_message(rcode, truncated, [&[], &[]], rotation),
                _ => self.servfail(),
            };
        }
        let (soa, other_records): (Vec<Record>, Vec<Record>) =
            (found.authority.into_iter()).partition(|record| record.data.rtype() == Rtype::SOA);
        // RFC 2308 section 2.2: NS records without a SOA record are a referral, from a server that
        // doesn't know the answer.
        let is_name_server = |record: &Record| record.data.rtype() == Rtype::NS;
        if rcode == OptRcode::NOERROR && soa.is_empty() && other_records.iter().any(is_name_server)
        {
            return self.servfail();
        }
        self.reply_message(rcode, truncated, [&soa, &[]], rotation)
    }

    /// Continues at the target with local data.
    fn continue_locally(mut self, local_names: &LocalNames<'_>, rotation: usize) -> QueryAction {
        let noerror = OptRcode::NOERROR;
        let zones = local_names.data.zones();
        match local_names.data.answer(&self.target, self.query.qtype) {
            Answer::Data { answer, additional } => {
                self.chain.extend(answer);
                if self.is_within_limits() {
                    self.reply_message(noerror, 0, [&[], &additional], rotation)
                } else {
                    self.servfail()
                }
            }
            Answer::NoData { zone } => {
                self.reply_message(noerror, 0, [&[zones[zone].negative_soa()], &[]], rotation)
            }
            Answer::NxDomain { zone } => {
                let soa = zones[zone].negative_soa();
                self.reply_message(OptRcode::NXDOMAIN, 0, [&[soa], &[]], rotation)
            }
            Answer::NotYetKnown => self.servfail(),
            Answer::Alias { chain, target } => {
                self.chain.extend(chain);
                self.target = target;
                self.query_upstream()
            }
            Answer::NotAuthoritative => self.query_upstream(),
        }
    }

    /// Queries an upstream for the target, unless a limit is reached.
    fn query_upstream(self) -> QueryAction {
        if self.is_within_limits() && self.upstream_queries < MAX_UPSTREAM_QUERIES {
            QueryAction::Chase(self)
        } else {
            self.servfail()
        }
    }

    /// Whether the chain has at most [`MAX_CHAIN`] CNAMEs and no duplicates.
    fn is_within_limits(&self) -> bool {
        let is_link = |record: &&Record| matches!(record.data, Rdata::Cname(_));
        let links: Vec<&Name> = (self.chain.iter().filter(is_link))
            .map(|record| &record.owner)
            .collect();
        let different: HashSet<&Name> = links.iter().copied().collect();
        links.len() <= MAX_CHAIN && links.len() == different.len()
    }

    /// A SERVFAIL reply with the CNAMEs found so far.
    fn servfail(&self) -> QueryAction {
        let mut links = self.chain.clone();
        links.retain(|record| matches!(record.data, Rdata::Cname(_)));
        let sections = render_sections(&self.query.name, [&links, &[], &[]], 0);
        let flags = self.flags & !AUTHORITATIVE;
        QueryAction::Send(self.query.reply(OptRcode::SERVFAIL, flags, &sections))
    }

    /// A reply with the chain as the answer section, and with authority and additional records.
    fn reply_message(
        &self,
        rcode: OptRcode,
        truncated: u16,
        [authority, additional]: [&[Record]; 2],
        rotation: usize,
    ) -> QueryAction {
        let records = [&self.chain[..], authority, additional];
        let sections = render_sections(&self.query.name, records, rotation);
        let flags = self.flags | truncated;
        QueryAction::Send(self.query.reply(rcode, flags, &sections))
    }
}
