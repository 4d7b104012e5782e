//! A canary: a query that the agent itself makes, to check that the attached programs answer.
//!
//! The programs are run by BPF_PROG_TEST_RUN, so no packet is sent. Such a run has its own counters
//! ([`PacketSource::TestRun`]), which show its outcome.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{bail, ensure};
use dns_common::{Outcome, outcomes::PacketSource};
use dns_ebpf::headers::{ethernet, ipv4, ipv6, udp};
use zerohop_zone::{Name, Rtype, build_query};

use super::{Datapath, PermittedClients, explain::build_frame, program::HookProgram};

/// The result of a canary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanaryReport {
    /// The zone whose SOA record was queried.
    pub zone: Name,
    /// The outcome in each attached program, by the program's name; empty when no device has a
    /// hook.
    pub outcomes: Vec<(&'static str, Outcome)>,
    /// The number of devices to which attaching failed.
    pub failed: usize,
}

impl Datapath {
    /// Queries every attached program for the SOA record of the first of `zones` whose SOA record
    /// is in the tables. `None` when there is no such zone. While the kernel answers no queries,
    /// for example because the lease has expired, the first of `zones` is queried.
    ///
    /// # Errors
    ///
    /// When a program can't be tested. See `Datapath::test_program`.
    pub fn run_canary(&mut self, zones: &[Name]) -> anyhow::Result<Option<CanaryReport>> {
        let may_be_in_tables =
            |zone: &&Name| may_have_record(self.explain_question(zone, Rtype::SOA).plain);
        let Some(zone) = zones.iter().find(may_be_in_tables).cloned() else {
            return Ok(None);
        };
        let mut programs: Vec<HookProgram> = Vec::new();
        for (program, _) in self.hooks.attached_programs() {
            if !programs.contains(&program) {
                programs.push(program);
            }
        }
        let mut outcomes = Vec::new();
        for program in programs {
            outcomes.push((program.name(), self.test_program(program, &zone)?));
        }
        let failed = self.failed_attachments().count();
        Ok(Some(CanaryReport {
            zone,
            outcomes,
            failed,
        }))
    }

    /// Queries one program for the SOA record of a zone. Returns the outcome. If there are no
    /// served addresses, or no client of their address families may be answered, the program isn't
    /// run, and the outcome is [`Outcome::NotServed`] or [`Outcome::NotPermitted`].
    ///
    /// # Errors
    ///
    /// When the kernel can't load or run the program or read its counters, when the program doesn't
    /// count exactly one outcome, or when it counts an answer but the resulting packet isn't a
    /// reply with RCODE 0.
    pub(super) fn test_program(
        &mut self,
        program: HookProgram,
        zone: &Name,
    ) -> anyhow::Result<Outcome> {
        if self.config.served_addresses.is_empty() {
            return Ok(Outcome::NotServed);
        }
        let Some((client, served)) = self.test_addresses(program) else {
            return Ok(Outcome::NotPermitted);
        };
        let message = build_query(0, zone, Rtype::SOA);
        let mut query = build_frame(client, served, &message);
        // The frame starts with the destination hardware address, which the programs for network
        // cards check.
        if let Some(card) = self.tables.node_settings.card_addresses.first() {
            query[..card.len()].copy_from_slice(card);
        }
        let hook = program.hook();
        let before = self.object.counters(hook, PacketSource::TestRun)?;
        let (_, reply) = self.object.test_run(program, &query)?;
        let after = self.object.counters(hook, PacketSource::TestRun)?;
        let has_changed = |outcome: &Outcome| before[*outcome as usize] != after[*outcome as usize];
        let counted: Vec<Outcome> = Outcome::ALL.into_iter().filter(has_changed).collect();
        let [outcome] = counted[..] else {
            bail!(
                "{} counted the outcomes {counted:?} for one query, instead of a single outcome",
                program.name()
            );
        };
        if outcome.is_answer() {
            let ip = if served.is_ipv4() {
                ipv4::LENGTH
            } else {
                ipv6::LENGTH
            };
            let header = ethernet::LENGTH + ip + udp::LENGTH;
            let flags = reply.get(header + 2..header + 4);
            // QR is set, and RCODE is 0.
            ensure!(
                flags.is_some_and(|flags| flags[0] & 0x80 != 0 && flags[1] & 0x0f == 0),
                "{} counted {outcome:?}, but the resulting packet is not a reply with RCODE 0: \
                 {reply:02x?}",
                program.name()
            );
        }
        Ok(outcome)
    }

    /// The address of a client that the program may answer, and a served address of the same
    /// family. `None` when there is no such pair.
    fn test_addresses(&self, program: HookProgram) -> Option<(IpAddr, SocketAddr)> {
        let uses_allowed_networks = program.is_for_cards() && !self.config.allow.is_empty();
        self.config.served_addresses.iter().find_map(|served| {
            let example = if served.is_ipv4() {
                EXAMPLE_CLIENTS[0]
            } else {
                EXAMPLE_CLIENTS[1]
            };
            let is_of_family = |client: &IpAddr| client.is_ipv4() == served.is_ipv4();
            let client = match self.tables.clients() {
                _ if uses_allowed_networks => {
                    let networks = self.config.allow.iter();
                    let mut networks = networks.filter(|network| is_of_family(&network.addr()));
                    let network = networks.next()?;
                    // The first host of a network such as 0.0.0.0/0 is not accepted as a client.
                    if network.contains(&example) {
                        example
                    } else {
                        network.hosts().next()?
                    }
                }
                PermittedClients::Only(permitted) => {
                    *permitted.iter().find(|client| is_of_family(client))?
                }
                PermittedClients::Any => example,
            };
            Some((client, *served))
        })
    }
}

/// Client addresses, IPv4 and IPv6, that are reserved for documentation: RFC 5737 section 3 and
/// RFC 3849 section 2.
const EXAMPLE_CLIENTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Whether a zone may be in the tables if the query for its SOA record has this outcome: the query
/// was answered, or the kernel answers no queries at present.
fn may_have_record(outcome: Outcome) -> bool {
    use Outcome::{LeaseStale, NotReady, NotServed};
    outcome.is_answer() || matches!(outcome, LeaseStale | NotReady | NotServed)
}
