//! Turns an upstream's response into the client's answer.
//!
//! A forwarded query gets the upstream's response code, unless the response can't be used or leads
//! to a local name. When the resolver follows an alias, a failure of an upstream (no response, a
//! response code other than NOERROR and NXDOMAIN, a referral) becomes SERVFAIL, never a negative
//! answer. If an upstream gives a negative answer for the target of a local alias, the reply has
//! the CNAMEs and this negative answer (RFC 6604, RFC 2308 section 2.1): the response code is for
//! the last name, AA is for the first name (RFC 1035 section 4.1.1), and the SOA record is the
//! upstream's.

use domain::base::{
    Header,
    header::Flags,
    iana::{OptRcode, Rtype},
};
use zerohop_zone::{Answer, Name, Rdata, Record, Window, ZoneData, render_sections};

use super::{
    bailiwick::{ChainEnd, LocalNames, RelevantRecords},
    message::{Chase, QueryAction},
    query::{HEADER_LEN, Query, Transport},
    response::Response,
};

/// What an upstream's response to a forwarded query leads to.
#[derive(Debug)]
pub enum Relay {
    /// A reply with all records, without an OPT record.
    Whole {
        /// Header, question and records.
        message: Vec<u8>,
        /// The upper eight bits of the response code.
        extended_rcode: u8,
    },
    /// The response can't be given to the client: it can't be parsed, or is truncated although the
    /// client uses TCP.
    Unusable,
    /// Another action.
    Other(QueryAction),
}

/// Sends nothing.
impl Default for Relay {
    fn default() -> Relay {
        Relay::Other(QueryAction::default())
    }
}

/// Upper bound on upstream queries for one client query.
const MAX_UPSTREAM_QUERIES: usize = 4;
/// Upper bound on the CNAMEs of a chain when local records or another upstream query continue it.
/// The CNAMEs of a response that ends the chain are not counted. Real chains have a few.
const MAX_CHASED_CNAMES: usize = 64;

impl Query {
    /// Converts the upstream's response to the client's reply. The reply has the client's ID and
    /// question, the resolver's OPT record if the client sent one, and a clear reserved bit. It
    /// fits the limit of the client's transport and EDNS size, and has no records that don't belong
    /// to the question.
    ///
    /// If the CNAMEs of a response with NOERROR or NXDOMAIN lead to a local name, the local data
    /// continues the answer, or another upstream query is needed. If the chain is then a loop or
    /// too long, or the local data is not complete yet, the reply is SERVFAIL. A loop inside the
    /// response is relayed.
    ///
    /// The reply is also SERVFAIL if the response can't be parsed, or if it is truncated and the
    /// client uses TCP.
    ///
    /// `rotation` is that of [`zerohop_zone::render`]. A response that is relayed whole keeps its
    /// order.
    pub fn relay(
        &self,
        response: &Response,
        local_names: &LocalNames<'_>,
        rotation: usize,
    ) -> QueryAction {
        self.finish(self.relay_whole(response, local_names, rotation))
    }

    /// The action that a relay leads to.
    pub(super) fn finish(&self, relay: Relay) -> QueryAction {
        match relay {
            Relay::Whole {
                mut message,
                extended_rcode,
            } => {
                if !self.asks_for_ad() {
                    Header::for_message_slice_mut(&mut message).set_ad(false);
                }
                QueryAction::Send(self.finish_message(message, extended_rcode, None))
            }
            Relay::Unusable => QueryAction::Send(self.error_reply(OptRcode::SERVFAIL)),
            Relay::Other(action) => action,
        }
    }

    /// As [`Query::relay`], but a reply that only consists of the response's records is not yet
    /// truncated.
    pub fn relay_whole(
        &self,
        response: &Response,
        local_names: &LocalNames<'_>,
        rotation: usize,
    ) -> Relay {
        // A TCP client can't retry over a transport with a larger limit.
        if response.is_truncated() && self.transport == Transport::Tcp {
            return Relay::Unusable;
        }
        let Some(found) = response.relevant_records(&self.name, self.qtype, local_names) else {
            return Relay::Unusable;
        };
        let mut header = response.header();
        if found.chain_end == ChainEnd::Local && response.is_answer() {
            let chase = Chase {
                query: self.clone(),
                chain: found.answer,
                target: found.last_name,
                flags: Flags {
                    aa: header.aa(),
                    ra: header.ra(),
                    ..Flags::default()
                },
                upstream_queries: 1,
                error: None,
            };
            return Relay::Other(chase.continue_locally(local_names, rotation));
        }
        header.set_id(self.header.id());
        header.set_z(false);
        let extended_rcode = response.rcode().ext();
        // If all records belong to the question, the message itself is relayed.
        if found.left_out == 0 {
            let mut message = response.message().to_vec();
            *Header::for_message_slice_mut(&mut message) = header;
            message[HEADER_LEN..HEADER_LEN + self.question.len()].copy_from_slice(&self.question);
            return Relay::Whole {
                message,
                extended_rcode,
            };
        }
        let RelevantRecords {
            answer,
            authority,
            additional,
            ..
        } = found;
        let records = [&answer[..], &authority, &additional];
        let sections = render_sections(&self.name, records, rotation);
        Relay::Whole {
            message: self.assemble_whole(header, &sections),
            extended_rcode,
        }
    }
}

impl Chase {
    /// Starts the chase of a local alias whose CNAMEs lead to `target`.
    pub(super) fn new(query: Query, chain: Vec<Record>, target: Name) -> Chase {
        Chase {
            query,
            chain,
            target,
            flags: Flags {
                aa: true,
                ..Flags::default()
            },
            upstream_queries: 0,
            error: None,
        }
    }

    /// Continues with local data if it has the target, although the target is in no local zone,
    /// such as a name of a hosts file. `rotation` is that of [`zerohop_zone::render`].
    pub(super) fn start(self, data: &dyn ZoneData, rotation: usize) -> QueryAction {
        if data.entry_within(&self.target, Window::EXISTENCE).is_none() {
            return QueryAction::Chase(self);
        }
        let domains = &[];
        self.continue_locally(&LocalNames { data, domains }, rotation)
    }

    /// Continues with an upstream's response for the target. `None`: there was no response.
    /// `rotation` is that of [`zerohop_zone::render`].
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
        let flags = Flags {
            tc: response.is_truncated(),
            ..self.flags
        };
        if has_data {
            return match rcode {
                OptRcode::NOERROR => self.reply_message(rcode, flags, [&[], &[]], rotation),
                // NXDOMAIN contradicts the data.
                _ => self.servfail(),
            };
        }
        let (soa, other_records): (Vec<Record>, Vec<Record>) =
            (found.authority.into_iter()).partition(|record| record.data.rtype() == Rtype::SOA);
        // NS records without a SOA record are a referral from a server that doesn't know the answer
        // (RFC 2308 section 2.2).
        let is_name_server = |record: &Record| record.data.rtype() == Rtype::NS;
        if rcode == OptRcode::NOERROR && soa.is_empty() && other_records.iter().any(is_name_server)
        {
            return self.servfail();
        }
        self.reply_message(rcode, flags, [&soa, &[]], rotation)
    }

    /// Answers from local data for the target, or queries an upstream if the local data doesn't
    /// decide the answer. SERVFAIL if the chain is a loop or reaches a limit, or if the local data
    /// is not complete yet.
    fn continue_locally(mut self, local_names: &LocalNames<'_>, rotation: usize) -> QueryAction {
        if self.is_loop() {
            return self.servfail();
        }
        let noerror = OptRcode::NOERROR;
        let flags = self.flags;
        let zones = local_names.data.zones();
        let window = self.query.window(rotation);
        let data = local_names.data;
        match data.answer_within(&self.target, self.query.qtype, window) {
            Answer::Data { answer, additional } => {
                self.chain.extend(answer);
                if self.is_too_long() {
                    return self.servfail();
                }
                self.reply_message(noerror, flags, [&[], &additional], rotation)
            }
            Answer::NoData { zone } => self.reply_message(
                noerror,
                flags,
                [&[zones[zone].negative_soa()], &[]],
                rotation,
            ),
            Answer::NoDataAtName { soa } => {
                self.reply_message(noerror, flags, [&[soa], &[]], rotation)
            }
            Answer::NxDomain { zone } => {
                let soa = zones[zone].negative_soa();
                self.reply_message(OptRcode::NXDOMAIN, flags, [&[soa], &[]], rotation)
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

    /// Queries an upstream for the target, unless the chain is a loop or a limit is reached.
    fn query_upstream(self) -> QueryAction {
        if self.is_too_long() || self.is_loop() || self.upstream_queries >= MAX_UPSTREAM_QUERIES {
            return self.servfail();
        }
        QueryAction::Chase(self)
    }

    fn is_too_long(&self) -> bool {
        self.aliases().count() > MAX_CHASED_CNAMES
    }

    /// Whether the target is an alias in the chain. Two CNAMEs of one owner are not a loop: CoreDNS
    /// returns several for a headless Service if its endpoints are domain names.
    fn is_loop(&self) -> bool {
        self.aliases().any(|alias| *alias == self.target)
    }

    /// The owners of the chain's CNAMEs.
    fn aliases(&self) -> impl Iterator<Item = &Name> {
        let is_cname = |record: &&Record| matches!(record.data, Rdata::Cname(_));
        self.chain
            .iter()
            .filter(is_cname)
            .map(|record| &record.owner)
    }

    /// A SERVFAIL reply with the CNAMEs found so far.
    pub(super) fn servfail(&self) -> QueryAction {
        let mut cnames = self.chain.clone();
        cnames.retain(|record| matches!(record.data, Rdata::Cname(_)));
        let sections = render_sections(&self.query.name, [&cnames, &[], &[]], 0);
        let flags = Flags {
            aa: false,
            ..self.flags
        };
        let servfail = OptRcode::SERVFAIL;
        QueryAction::Send(self.query.reply(servfail, flags, &sections, self.error))
    }

    /// A reply with the chain as the answer section, and with authority and additional records.
    fn reply_message(
        &self,
        rcode: OptRcode,
        flags: Flags,
        [authority, additional]: [&[Record]; 2],
        rotation: usize,
    ) -> QueryAction {
        let records = [&self.chain[..], authority, additional];
        let sections = render_sections(&self.query.name, records, rotation);
        QueryAction::Send(self.query.reply(rcode, flags, &sections, None))
    }
}
