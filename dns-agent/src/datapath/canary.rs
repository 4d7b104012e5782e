//! A question that nobody asked, to see that the attached programs answer.
//!
//! It is put to the very programs that are attached, by BPF_PROG_TEST_RUN. No packet is on any wire, and
//! it is counted apart ([`Source::TestRun`]), which also says how it ended.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{bail, ensure};
use dns_common::{Outcome, outcomes::Source};
use dns_ebpf::query::{ETHERNET, IPV4, IPV6, UDP};

use super::{Clients, Datapath, explain::frame, object::Program};
use crate::zone::{Name, Rtype, query};

/// What the attached programs did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Canary {
    /// The zone whose SOA record was asked for.
    pub zone: Name,
    /// How it ended, in each program that is attached anywhere.
    pub ends: Vec<(&'static str, Outcome)>,
    /// How many devices no program could be attached to.
    pub failed: usize,
}

impl Datapath {
    /// Asks every attached program for the SOA record of one of these zones: it is always there.
    ///
    /// None: the kernel has none of these names, whatever its state.
    ///
    /// # Errors
    ///
    /// When the kernel does not run a program, or what it left is no answer.
    pub fn canary(&mut self, zones: &[Name]) -> anyhow::Result<Option<Canary>> {
        let is_there = |zone: &&Name| is_there(self.explain(zone, Rtype::SOA).plain);
        let Some(zone) = zones.iter().find(is_there).cloned() else {
            return Ok(None);
        };
        let mut programs: Vec<Program> = Vec::new();
        for (program, _) in self.hooks.running() {
            if !programs.contains(&program) {
                programs.push(program);
            }
        }
        let mut ends = Vec::new();
        for program in programs {
            ends.push((program.name(), self.ask(program, &zone)?));
        }
        let failed = self.failed().count();
        Ok(Some(Canary { zone, ends, failed }))
    }

    /// Asks one program for the SOA record of a zone; how it ended.
    ///
    /// # Errors
    ///
    /// When the kernel does not run the program, or what it left is no answer.
    pub(super) fn ask(&mut self, program: Program, zone: &Name) -> anyhow::Result<Outcome> {
        if self.config.serve.is_empty() {
            return Ok(Outcome::NotServed);
        }
        let Some((client, served)) = self.client(program) else {
            return Ok(Outcome::NotPermitted);
        };
        let message = query(0, zone, Rtype::SOA);
        let mut asked = frame(client, served, &message);
        if let Some(card) = self.tables.fixed.hardware.first() {
            asked[..card.len()].copy_from_slice(card);
        }
        let hook = program.hook();
        let before = self.object.counters(hook, Source::TestRun)?;
        let (_, reply) = self.object.test_run(program, &asked)?;
        let after = self.object.counters(hook, Source::TestRun)?;
        let moved = |outcome: &Outcome| before[*outcome as usize] != after[*outcome as usize];
        let ends: Vec<Outcome> = Outcome::ALL.into_iter().filter(moved).collect();
        let [outcome] = ends[..] else {
            bail!("{} counted {ends:?} for one question", program.name());
        };
        if outcome.is_answer() {
            let header = ETHERNET + UDP + if served.is_ipv4() { IPV4 } else { IPV6 };
            let flags = reply.get(header + 2..header + 4);
            ensure!(
                flags.is_some_and(|flags| flags[0] & 0x80 != 0 && flags[1] & 0x0f == 0),
                "{} answered {outcome:?}, but left {reply:02x?}",
                program.name()
            );
        }
        Ok(outcome)
    }

    /// A client that a program answers, and where it asks; none when no client may.
    fn client(&self, program: Program) -> Option<(IpAddr, SocketAddr)> {
        let is_card = program.is_for_cards() && !self.config.allow.is_empty();
        self.config.serve.iter().find_map(|served| {
            let made_up = match served.is_ipv4() {
                true => EXAMPLES[0],
                false => EXAMPLES[1],
            };
            let is_of_family = |client: &IpAddr| client.is_ipv4() == served.is_ipv4();
            let client = match self.tables.clients() {
                _ if is_card => {
                    let networks = self.config.allow.iter();
                    let mut networks = networks.filter(|network| is_of_family(&network.addr()));
                    let network = networks.next()?;
                    match network.contains(&made_up) {
                        true => made_up,
                        false => network.hosts().next()?,
                    }
                }
                Clients::Known(known) => *known.iter().find(|client| is_of_family(client))?,
                Clients::Any => made_up,
            };
            Some((client, *served))
        })
    }
}

/// Addresses that nobody has: RFC 5737 section 3 and RFC 3849 section 2.
const EXAMPLES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Whether a name is one that the kernel answers, when it answers at all.
fn is_there(outcome: Outcome) -> bool {
    use Outcome::{LeaseStale, NotReady, NotServed};
    outcome.is_answer() || matches!(outcome, LeaseStale | NotReady | NotServed)
}
