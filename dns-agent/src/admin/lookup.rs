//! `dns-agent lookup`: what a question would be answered, by whom, and from which objects.

mod report;

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
};

use dns_common::{
    Outcome,
    names::{MAX_NAME, MIN_NAME},
};

pub use self::report::{KernelReport, KernelState, Lookup, Plane, RecordReport};
use super::{board::Board, health::KernelCanary, metrics::Metrics};
use crate::{
    cluster::{Index, Origin, Provenance},
    datapath::explain::Explained,
    resolver::{Canary, is_transfer},
    zone::{Answer, Name, Rdata, Record, Rtype, ZoneData},
};

/// Everything that decides an answer.
pub struct Known {
    /// What is answered, and where it came from.
    pub index: Arc<RwLock<Index>>,
    /// The addresses the resolver answers on.
    pub listen: Vec<SocketAddr>,
    /// The servers it asks.
    pub upstreams: Vec<SocketAddr>,
    /// Tells what the kernel plane would do.
    pub kernel: Explain,
    /// Asks the kernel plane.
    pub kernel_canary: KernelCanary,
    /// Ask the resolver, each at one of its addresses.
    pub canaries: Vec<Arc<Canary>>,
    /// What does not work.
    pub board: Arc<Board>,
    /// What was measured.
    pub metrics: Arc<Metrics>,
}

/// Tells what the kernel plane would do with a question.
pub type Explain = Box<dyn Fn(&Name, Rtype) -> KernelPlane + Send + Sync>;

/// The kernel plane, asked about one question.
#[derive(Clone, Debug)]
pub enum KernelPlane {
    /// No interface was asked for.
    Off,
    /// It could not be started, and why.
    Failed(String),
    /// Its tables are there.
    On(Explained),
}

/// What a client gets.
struct Reply {
    /// None: what the upstream says.
    rcode: Option<&'static str>,
    answer: Vec<Record>,
    authority: Vec<Record>,
    additional: Vec<Record>,
    /// Whose answer is still to come.
    asks: Option<Name>,
}

impl Known {
    /// Answers the question, without asking an upstream. Takes the locks of the kernel plane, which
    /// its writer may hold for a while.
    #[must_use]
    pub fn lookup(&self, name: &Name, rtype: Rtype) -> Lookup {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let model = index.view();
        let reply = Reply::to(&model, name, rtype, &self.upstreams);
        let provenance = Provenance::new(&index);
        let told = |records: &[Record]| -> Vec<RecordReport> {
            records
                .iter()
                .map(|record| tell(record, provenance.of(record)))
                .collect()
        };
        let (answer, authority, additional) = (
            told(&reply.answer),
            told(&reply.authority),
            told(&reply.additional),
        );

        let kernel = (self.kernel)(name, rtype);
        let why = self.why_not_kernel(&kernel, &model, name, rtype);
        let plane = match (&kernel, &reply.asks) {
            (KernelPlane::On(explained), _)
                if explained.is_attached && explained.plain.is_answer() =>
            {
                Plane::Kernel
            }
            _ if self.listen.is_empty() => Plane::None,
            (_, Some(_)) if reply.answer.is_empty() => Plane::Upstream,
            _ => Plane::Agent,
        };
        let mut notes = self.notes(&model, name, rtype, &reply);
        if !reply.authority.is_empty() {
            notes.extend(provenance.why_empty(name, rtype));
        }
        if plane == Plane::None {
            notes.push(
                "the agent has no --listen: the query goes on as if Zerohop were not there, and this is what the agent would say"
                    .to_owned(),
            );
        }
        Lookup {
            name: name.to_string(),
            rtype: rtype.to_string(),
            rcode: reply.rcode.map(str::to_owned),
            aa: reply.rcode.is_some_and(|rcode| rcode != "REFUSED"),
            answer,
            authority,
            additional,
            plane,
            why,
            kernel: kernel.report(),
            upstreams: match reply.asks {
                Some(_) => self.upstreams.clone(),
                None => Vec::new(),
            },
            notes,
        }
    }

    /// Why the kernel doesn't answer, or not everybody.
    fn why_not_kernel(
        &self,
        kernel: &KernelPlane,
        model: &dyn ZoneData,
        name: &Name,
        rtype: Rtype,
    ) -> Option<String> {
        let explained = match kernel {
            KernelPlane::Off => {
                return Some("no kernel plane: --interface is not given".to_owned());
            }
            KernelPlane::Failed(reason) => return Some(reason.clone()),
            KernelPlane::On(explained) => explained,
        };
        if !explained.is_attached {
            let troubles = self.board.troubles().join("; ");
            return Some(format!(
                "the kernel program is attached nowhere: {troubles}"
            ));
        }
        if explained.plain.is_answer() {
            return None;
        }
        let outcome = explained.plain;
        let mut why = format!(
            "{}: {}",
            outcome.name(),
            sentence(outcome, model, name, rtype)
        );
        match explained.edns {
            Some(outcome) if outcome.is_answer() => {
                why += "; clients with EDNS (1232 octets) get it from the kernel";
            }
            Some(outcome) => {
                why += &format!(
                    "; with EDNS (1232 octets) {}: {}",
                    outcome.name(),
                    sentence(outcome, model, name, rtype)
                );
            }
            None => {}
        }
        Some(why)
    }

    /// What is not in the answer.
    fn notes(&self, model: &dyn ZoneData, name: &Name, rtype: Rtype, reply: &Reply) -> Vec<String> {
        if is_transfer(rtype) {
            return vec!["zone transfers are refused: `dns-agent dump` prints zones".to_owned()];
        }
        let outside = match model.answer(name, rtype) {
            Answer::Alias { target, .. } => target,
            Answer::NotOurs => name.clone(),
            _ => return Vec::new(),
        };
        vec![match &reply.asks {
            Some(_) => format!("{outside} is not ours: an upstream is asked for it"),
            None => {
                format!("{outside} is not ours, and there is no --upstream to ask for it")
            }
        }]
    }
}

impl Reply {
    fn to(model: &dyn ZoneData, name: &Name, rtype: Rtype, upstreams: &[SocketAddr]) -> Reply {
        let reply = |rcode| Reply {
            rcode: Some(rcode),
            answer: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            asks: None,
        };
        let negative = |rcode, zone: usize| Reply {
            authority: soa(model, zone).into_iter().collect(),
            ..reply(rcode)
        };
        if is_transfer(rtype) {
            return reply("REFUSED");
        }
        match model.answer(name, rtype) {
            Answer::Data { answer, additional } => Reply {
                answer,
                additional,
                ..reply("NOERROR")
            },
            Answer::NoData { zone } => negative("NOERROR", zone),
            Answer::NxDomain { zone } => negative("NXDOMAIN", zone),
            // Without an upstream an alias is no data, as in the resolver.
            Answer::Alias { .. } if upstreams.is_empty() => match model.zone_of(name) {
                Some(zone) => negative("NOERROR", zone),
                None => reply("SERVFAIL"),
            },
            Answer::Alias { chain, target } => Reply {
                answer: chain,
                asks: Some(target),
                ..reply("NOERROR")
            },
            Answer::NotYetKnown => reply("SERVFAIL"),
            Answer::NotOurs if upstreams.is_empty() => reply("REFUSED"),
            Answer::NotOurs => Reply {
                rcode: None,
                asks: Some(name.clone()),
                ..reply("")
            },
        }
    }
}

impl KernelPlane {
    fn report(&self) -> KernelReport {
        let KernelPlane::On(explained) = self else {
            return KernelReport {
                state: match self {
                    KernelPlane::Failed(_) => KernelState::Failed,
                    _ => KernelState::Off,
                },
                outcome: None,
                outcome_edns: None,
            };
        };
        KernelReport {
            state: if explained.is_attached {
                KernelState::On
            } else {
                KernelState::Unattached
            },
            outcome: Some(explained.plain.name().to_owned()),
            outcome_edns: explained.edns.map(|outcome| outcome.name().to_owned()),
        }
    }
}

/// The SOA record of a negative answer (RFC 2308 section 3).
fn soa(model: &dyn ZoneData, zone: usize) -> Option<Record> {
    let apex = model.zones().get(zone)?;
    Some(Record {
        owner: apex.name.clone(),
        ttl: apex.negative_ttl,
        data: Rdata::Soa(apex.soa.clone()),
    })
}

fn tell(record: &Record, origin: Origin) -> RecordReport {
    RecordReport {
        record: record.to_string(),
        settings: origin == Origin::Settings,
        objects: match origin {
            Origin::Objects(objects) => objects,
            Origin::Settings | Origin::Unknown => Vec::new(),
        },
    }
}

/// Why a well-formed question to a served address passes.
fn sentence(outcome: Outcome, model: &dyn ZoneData, name: &Name, rtype: Rtype) -> String {
    let parent = || {
        name.parent()
            .map_or_else(String::new, |parent| parent.to_string())
    };
    match outcome {
        Outcome::LeaseStale => {
            "the agent did not renew its lease within --stale-after: its writer is stuck".to_owned()
        }
        Outcome::NameLength => format!(
            "the name takes {} octets, and the kernel looks up names of {MIN_NAME} to {MAX_NAME}",
            name.wire().len()
        ),
        Outcome::OddName => "the name has more labels than the kernel walks".to_owned(),
        Outcome::MetaType => format!("{rtype} is no type of data but of questions"),
        Outcome::PassMark => pass_mark(model, name, rtype),
        Outcome::BelowUnknown => format!(
            "names below {} are computed, and the kernel's tables hold stored ones only",
            parent()
        ),
        Outcome::TagCollision => {
            "another name with the same hash stands in its place in the kernel's tables".to_owned()
        }
        Outcome::NotOwned => match model.zone_of(name) {
            None => "the name is not ours".to_owned(),
            Some(zone) => format!(
                "the kernel's tables don't hold all names of this part of {}, so it can't say what does not exist",
                model.zones()[zone].name
            ),
        },
        Outcome::TooLarge => {
            "the answer is longer than the client takes, 512 octets without EDNS".to_owned()
        }
        _ => "the kernel program leaves it to others".to_owned(),
    }
}

/// What the mark of a name's record stands for.
fn pass_mark(model: &dyn ZoneData, name: &Name, rtype: Rtype) -> String {
    match model.answer(name, rtype) {
        Answer::Alias { target, .. } => {
            format!("the name is an alias that leads to {target}, which is not ours")
        }
        Answer::Data { answer, .. }
            if !matches!(
                answer.as_slice(),
                [
                    Record {
                        data: Rdata::Cname(_),
                        ..
                    },
                    ..
                ]
            ) =>
        {
            format!(
                "the answer, {} records, is too long for the kernel's tables",
                answer.len()
            )
        }
        _ => {
            "the name's record is marked: the agent works the answer out, as for aliases".to_owned()
        }
    }
}
