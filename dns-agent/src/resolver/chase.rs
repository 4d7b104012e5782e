//! How an upstream's response becomes the client's answer.
//!
//! A failure of an upstream (no response, any response code but NOERROR and NXDOMAIN, a referral) is
//! SERVFAIL for the client, never the denial of a name or of a type. What an upstream denies behind an
//! alias of ours is denied with the CNAMEs that led there (RFC 6604, RFC 2308 section 2.1): the
//! response code is that of the last name, AA is about the first one (RFC 1035 section 4.1.1), and the
//! SOA record is the upstream's.

use std::collections::HashSet;

use domain::base::iana::{OptRcode, Rtype};

use super::{
    bailiwick::{Lead, OwnNames, Relevant},
    compose::{self, AUTHORITATIVE, HEADER_LEN, RECURSION_AVAILABLE, RESERVED, TRUNCATED},
    message::{Chase, Query, Reply, Transport},
    response::Response,
};
use crate::zone::{Answer, Name, Rdata, Record, render_sections};

/// How many questions to upstreams one query may lead to.
const MAX_QUESTIONS: usize = 4;
/// How many CNAMEs the answer section may hold.
const MAX_CHAIN: usize = 64;

impl Query {
    /// The upstream's message as the client's: with its ID, its question in its own casing, our OPT
    /// record, the reserved bit clear, no longer than it takes, and without the records that don't
    /// belong to the question.
    pub fn relay(&self, response: &Response, own: &OwnNames<'_>, rotation: usize) -> Reply {
        // A client that came by TCP can't ask by anything that cuts less.
        if response.is_truncated() && self.transport == Transport::Tcp {
            return Reply::Message(self.error(OptRcode::SERVFAIL));
        }
        let Some(found) = response.relevant(&self.name, self.qtype, own) else {
            return Reply::Message(self.error(OptRcode::SERVFAIL));
        };
        if found.lead == Lead::Own && response.is_answer() {
            let chase = Chase {
                query: self.clone(),
                chain: found.answer,
                target: found.end,
                flags: response.flags(AUTHORITATIVE | RECURSION_AVAILABLE),
                questions: 1,
            };
            return chase.proceed(own, rotation);
        }
        let (rcode, flags) = (response.rcode(), response.flags(!RESERVED));
        if found.left_out == 0 {
            let mut message = response.message().to_vec();
            message[..2].copy_from_slice(&self.id.to_be_bytes());
            compose::clear_flags(&mut message, RESERVED);
            message[HEADER_LEN..HEADER_LEN + self.question.len()].copy_from_slice(&self.question);
            return Reply::Message(self.finish(message, rcode.ext()));
        }
        let Relevant {
            answer,
            authority,
            additional,
            ..
        } = found;
        let records = [&answer[..], &authority, &additional];
        let sections = render_sections(&self.name, records, rotation);
        Reply::Message(self.assemble(flags, rcode.ext(), &sections))
    }
}

impl Chase {
    /// The chase of an alias of ours, whose CNAMEs lead to `target`.
    pub(super) fn new(query: Query, chain: Vec<Record>, target: Name) -> Chase {
        Chase {
            query,
            chain,
            target,
            flags: AUTHORITATIVE,
            questions: 0,
        }
    }

    /// Goes on with what an upstream said about the target; `None`: nothing.
    pub fn complete(
        mut self,
        response: Option<&Response>,
        own: &OwnNames<'_>,
        rotation: usize,
    ) -> Reply {
        self.questions += 1;
        let Some(response) = response.filter(|response| response.is_answer()) else {
            return self.failure();
        };
        // A client that came by TCP can't ask by anything that cuts less.
        if response.is_truncated() && self.query.transport == Transport::Tcp {
            return self.failure();
        }
        let qtype = self.query.qtype;
        let Some(found) = response.relevant(&self.target, qtype, own) else {
            return self.failure();
        };
        let is_data = |record: &Record| record.data.rtype() == qtype;
        let has_data = found.answer.iter().any(is_data);
        self.chain.extend(found.answer);
        match found.lead {
            Lead::Nowhere => return self.failure(),
            Lead::Own => {
                self.target = found.end;
                return self.proceed(own, rotation);
            }
            Lead::Upstream => {}
        }
        let rcode = response.rcode();
        let truncated = response.flags(TRUNCATED);
        if has_data {
            return match rcode {
                OptRcode::NOERROR => self.message(rcode, truncated, [&[], &[]], rotation),
                _ => self.failure(),
            };
        }
        let (soa, others): (Vec<Record>, Vec<Record>) =
            (found.authority.into_iter()).partition(|record| record.data.rtype() == Rtype::SOA);
        // RFC 2308 section 2.2: name servers without a SOA record are a referral, of a server that
        // doesn't know the answer.
        let is_name_server = |record: &Record| record.data.rtype() == Rtype::NS;
        if rcode == OptRcode::NOERROR && soa.is_empty() && others.iter().any(is_name_server) {
            return self.failure();
        }
        self.message(rcode, truncated, [&soa, &[]], rotation)
    }

    /// Goes on at the target as our data say.
    fn proceed(mut self, own: &OwnNames<'_>, rotation: usize) -> Reply {
        let noerror = OptRcode::NOERROR;
        let zones = own.data.zones();
        match own.data.answer(&self.target, self.query.qtype) {
            Answer::Data { answer, additional } => {
                self.chain.extend(answer);
                match self.is_bounded() {
                    true => self.message(noerror, 0, [&[], &additional], rotation),
                    false => self.failure(),
                }
            }
            Answer::NoData { zone } => {
                self.message(noerror, 0, [&[zones[zone].negative_soa()], &[]], rotation)
            }
            Answer::NxDomain { zone } => {
                let soa = zones[zone].negative_soa();
                self.message(OptRcode::NXDOMAIN, 0, [&[soa], &[]], rotation)
            }
            Answer::NotYetKnown => self.failure(),
            Answer::Alias { chain, target } => {
                self.chain.extend(chain);
                self.target = target;
                self.ask()
            }
            Answer::NotOurs => self.ask(),
        }
    }

    /// Asks an upstream for the target, if that can still lead to an end.
    fn ask(self) -> Reply {
        match self.is_bounded() && self.questions < MAX_QUESTIONS {
            true => Reply::Chase(self),
            false => self.failure(),
        }
    }

    /// Whether the CNAMEs are few, and none of them stands twice.
    fn is_bounded(&self) -> bool {
        let is_link = |record: &&Record| matches!(record.data, Rdata::Cname(_));
        let links: Vec<&Name> = (self.chain.iter().filter(is_link))
            .map(|record| &record.owner)
            .collect();
        let different: HashSet<&Name> = links.iter().copied().collect();
        links.len() <= MAX_CHAIN && links.len() == different.len()
    }

    /// SERVFAIL, with the CNAMEs that are known.
    fn failure(&self) -> Reply {
        let mut links = self.chain.clone();
        links.retain(|record| matches!(record.data, Rdata::Cname(_)));
        let sections = render_sections(&self.query.name, [&links, &[], &[]], 0);
        let flags = self.flags & !AUTHORITATIVE;
        Reply::Message(self.query.reply(OptRcode::SERVFAIL, flags, &sections))
    }

    /// The CNAMEs and what stands behind them, with authority and additional records.
    fn message(
        &self,
        rcode: OptRcode,
        truncated: u16,
        [authority, additional]: [&[Record]; 2],
        rotation: usize,
    ) -> Reply {
        let records = [&self.chain[..], authority, additional];
        let sections = render_sections(&self.query.name, records, rotation);
        let flags = self.flags | truncated;
        Reply::Message(self.query.reply(rcode, flags, &sections))
    }
}
