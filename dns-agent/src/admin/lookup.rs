//! `dns-agent lookup`: what a question would be answered, by whom, and from which objects.

mod report;

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use dns_common::{
    Outcome,
    names::{MAX_NAME, MIN_NAME},
};
use domain::base::Message;
use tokio::{
    task::{JoinError, spawn_blocking},
    time::timeout,
};

pub use self::report::{KernelReport, KernelState, Lookup, Plane, RecordReport};
use super::{board::Board, health::KernelCanary, metrics::Metrics};
use crate::{
    cluster::{Index, Origin, Provenance},
    datapath::explain::Explained,
    resolver::{Canary, Consulted, NoResponse, Records, Resolver, is_transfer},
    zone::{Answer, Apex, Name, Rdata, Record, Rtype, ZoneData},
};

/// Everything that decides an answer.
pub struct Known {
    /// What is answered, and where it came from.
    pub index: Arc<RwLock<Index>>,
    /// The addresses the resolver answers on.
    pub listen: Vec<SocketAddr>,
    /// The resolver, which is asked what it answers.
    pub resolver: Arc<Resolver>,
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

/// How long the resolver may take: `dns-agent lookup` waits for little more.
const PATIENCE: Duration = Duration::from_millis(4500);

/// What the resolver answered.
struct Answered {
    /// The response code and AA; none while upstreams are still asked.
    head: Option<(String, bool)>,
    /// The answer, authority and additional section.
    sections: [Vec<Record>; 3],
    /// The questions that upstreams were asked.
    consulted: Vec<Consulted>,
}

impl Known {
    /// Has the resolver answer the question, and says who else would, and why.
    ///
    /// # Errors
    /// When the report can't be made.
    pub async fn lookup(self: Arc<Self>, name: Name, rtype: Rtype) -> Result<Lookup, JoinError> {
        let mut consulted = Vec::new();
        let answer = self.resolver.explain(&name, rtype, &mut consulted);
        let message = timeout(PATIENCE, answer).await.ok();
        let answered = Answered::read(message.as_deref(), consulted);
        // It takes the locks of the kernel plane, which its writer may hold for a while.
        spawn_blocking(move || self.report(&name, rtype, answered)).await
    }

    fn report(&self, name: &Name, rtype: Rtype, answered: Answered) -> Lookup {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let model = index.view();
        let provenance = Provenance::new(&index);
        let Answered {
            head,
            sections,
            consulted,
        } = answered;
        let asked_others = !consulted.is_empty();
        let [answer, authority, additional] = sections.map(|records| -> Vec<RecordReport> {
            let records = records.iter();
            let told = records.map(|record| match asked_others && !is_held(&model, record) {
                true => tell_upstreams(record),
                false => tell(record, provenance.of(record)),
            });
            told.collect()
        });

        let kernel = (self.kernel)(name, rtype);
        let why = self.why_not_kernel(&kernel, &model, name, rtype);
        let is_forwarded = consulted
            .first()
            .is_some_and(|first| first.name == *name && !first.servers.is_empty());
        let plane = match &kernel {
            KernelPlane::On(explained) if explained.is_attached && explained.plain.is_answer() => {
                Plane::Kernel
            }
            _ if self.listen.is_empty() => Plane::None,
            _ if is_forwarded => Plane::Upstream,
            _ => Plane::Agent,
        };
        let mut notes: Vec<String> = consulted.iter().map(note).collect();
        if is_transfer(rtype) {
            notes.push("zone transfers are refused: `dns-agent dump` prints zones".to_owned());
        }
        if !asked_others && !authority.is_empty() {
            notes.extend(provenance.why_empty(name, rtype));
        }
        if plane == Plane::None {
            notes.push(
                "the agent has no --listen: the query goes on as if Zerohop were not there, and this is what the agent would say"
                    .to_owned(),
            );
        }
        let mut upstreams = Vec::new();
        for server in consulted.iter().flat_map(|question| &question.servers) {
            if !upstreams.contains(server) {
                upstreams.push(*server);
            }
        }
        Lookup {
            name: name.to_string(),
            rtype: rtype.to_string(),
            aa: head.as_ref().is_some_and(|(_, aa)| *aa),
            rcode: head.map(|(rcode, _)| rcode),
            answer,
            authority,
            additional,
            plane,
            why,
            kernel: kernel.report(),
            upstreams,
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
        let sentence = |outcome| match outcome {
            Outcome::LeaseStale => self.stale_lease(),
            _ => sentence(outcome, model, name, rtype),
        };
        let outcome = explained.plain;
        let mut why = format!("{}: {}", outcome.name(), sentence(outcome));
        match explained.edns {
            Some(outcome) if outcome.is_answer() => {
                why += "; clients with EDNS (1232 octets) get it from the kernel";
            }
            Some(outcome) => {
                why += &format!(
                    "; with EDNS (1232 octets) {}: {}",
                    outcome.name(),
                    sentence(outcome)
                );
            }
            None => {}
        }
        Some(why)
    }

    /// Why the lease is over: what is degraded, which the agent lets it end for, or else a writer that
    /// is late.
    fn stale_lease(&self) -> String {
        match self.board.troubles().as_slice() {
            [] => "the agent did not renew its lease within --stale-after: its writer is stuck"
                .to_owned(),
            troubles => format!(
                "the agent does not renew its lease: {}",
                troubles.join("; ")
            ),
        }
    }
}

impl Answered {
    fn read(message: Option<&[u8]>, consulted: Vec<Consulted>) -> Answered {
        let header = message.and_then(|message| Message::from_slice(message).ok());
        let records = message.and_then(Records::read).unwrap_or_default();
        let typed = |record: Record| Record {
            data: record.data.typed(),
            ..record
        };
        Answered {
            head: header.map(|message| (message.opt_rcode().to_string(), message.header().aa())),
            sections: (records.sections).map(|records| records.into_iter().map(typed).collect()),
            consulted,
        }
    }
}

/// Who was asked for a name that isn't ours, and what came of it.
fn note(question: &Consulted) -> String {
    let name = &question.name;
    match &question.outcome {
        None => format!(
            "{name} is not ours: the upstreams are asked for it, and none has answered within {} s",
            PATIENCE.as_secs_f32()
        ),
        Some(Ok(rcode)) => {
            format!("{name} is not ours: an upstream was asked for it, and answered {rcode}")
        }
        Some(Err(NoResponse::NoUpstream)) => {
            format!("{name} is not ours, and there is no --upstream to ask for it")
        }
        Some(Err(NoResponse::Unknown)) => format!(
            "{name} is the cluster's DNS's to answer, whose address is not known: it is that of --dns-service, or --cluster-dns"
        ),
        Some(Err(NoResponse::Silence)) => {
            format!("{name} is not ours: the upstreams were asked for it, and none answered")
        }
        Some(Err(NoResponse::Overloaded)) => format!(
            "{name} is not ours, and no upstream was asked for it: too many questions are waiting"
        ),
    }
}

/// Whether a record is in our data.
fn is_held(model: &dyn ZoneData, record: &Record) -> bool {
    let is_soa = |zone: &Apex| zone.negative_soa() == *record;
    match model.answer(&record.owner, record.data.rtype()) {
        Answer::Data { answer, .. } if answer.contains(record) => true,
        _ => model.zones().iter().any(is_soa),
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

fn tell(record: &Record, origin: Origin) -> RecordReport {
    RecordReport {
        record: record.to_string(),
        settings: origin == Origin::Settings,
        objects: match origin {
            Origin::Objects(objects) => objects,
            Origin::Settings | Origin::Unknown => Vec::new(),
        },
        upstream: false,
    }
}

fn tell_upstreams(record: &Record) -> RecordReport {
    RecordReport {
        record: record.to_string(),
        settings: false,
        objects: Vec::new(),
        upstream: true,
    }
}

/// Why a well-formed question to a served address passes.
fn sentence(outcome: Outcome, model: &dyn ZoneData, name: &Name, rtype: Rtype) -> String {
    let parent = || {
        name.parent()
            .map_or_else(String::new, |parent| parent.to_string())
    };
    match outcome {
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
