//! `dns-agent lookup`: the answer to a question, the plane that gives it, and the objects that it
//! comes from.

mod report;

use std::{sync::Arc, time::Duration};

use dns_common::{
    Outcome,
    names::MIN_NAME,
    records::{MAX_ANSWER_LENGTH, MAX_RECORD_LENGTH},
};
use domain::base::Message;
use tokio::{
    task::{JoinError, spawn_blocking},
    time::timeout,
};

pub use self::report::{AnsweringPlane, KernelReport, KernelState, Lookup, RecordReport};
use zerohop_resolver::{
    NoResponse, Records, RouteExplanation, UpstreamLookup, is_nxname, is_transfer,
};
use zerohop_zone::{Answer, Apex, Name, Origin, Rdata, Record, Rtype, ZoneData};

use super::{
    state::{AdminState, KernelExplanation},
    status::SteeringState,
};

/// The longest time that the resolver may take. It is shorter than the 5 s for which
/// `dns-agent lookup` waits.
const RESOLVER_TIMEOUT: Duration = Duration::from_millis(4500);

/// The resolver's answer.
struct ResolverAnswer {
    /// The response code and the AA bit; `None` when the resolver still waited for upstreams after
    /// [`RESOLVER_TIMEOUT`].
    head: Option<(String, bool)>,
    /// The answer, authority and additional sections.
    sections: [Vec<Record>; 3],
    /// The questions that need an upstream, whether or not one could be queried.
    forwarded: Vec<UpstreamLookup>,
}

/// What steering makes of a question.
enum QuestionSteering {
    /// The kernel answers, or steering isn't wanted.
    NotConcerned,
    /// The query goes to the agent's resolver, through this device.
    Steered(String),
    /// The query goes to the cluster's DNS, for this reason.
    Passed(String),
}

impl QuestionSteering {
    fn is_steered(&self) -> bool {
        matches!(self, QuestionSteering::Steered(_))
    }

    /// For people.
    fn describe(&self) -> Option<String> {
        match self {
            QuestionSteering::NotConcerned => None,
            QuestionSteering::Steered(device) => Some(format!(
                "pods' queries over UDP are steered to this agent, through {device}"
            )),
            QuestionSteering::Passed(reason) => {
                Some(format!("pods' queries over UDP are not steered: {reason}"))
            }
        }
    }
}

impl AdminState {
    /// Lets the resolver answer the question, and reports which plane would answer a client, and
    /// why it isn't the kernel plane.
    ///
    /// # Errors
    /// When the task that makes the report panicked.
    pub async fn lookup(self: Arc<Self>, name: Name, rtype: Rtype) -> Result<Lookup, JoinError> {
        let mut forwarded = Vec::new();
        let answer = self.resolver.explain_answer(&name, rtype, &mut forwarded);
        let message = timeout(RESOLVER_TIMEOUT, answer).await.ok();
        let answered = ResolverAnswer::read(message.as_deref(), forwarded);
        // On a blocking thread, because the publisher may hold the kernel plane's lock for long.
        spawn_blocking(move || self.report(&name, rtype, answered)).await
    }

    fn report(&self, name: &Name, rtype: Rtype, answered: ResolverAnswer) -> Lookup {
        let providers = self.providers.read();
        let data = providers.union();
        let ResolverAnswer {
            head,
            sections,
            forwarded,
        } = answered;
        let needs_upstream = !forwarded.is_empty();
        let route = self.resolver.explain_route(name, rtype);
        let is_special = matches!(route, Some(RouteExplanation::SpecialUse(_)));
        let has_made_records = route.as_ref().is_some_and(RouteExplanation::makes_records);
        let [answer, authority, additional] = sections.map(|records| -> Vec<RecordReport> {
            let records = records.iter();
            let reports = records.map(|record| {
                if is_in_zones(&data, record) {
                    object_record(record, providers.origin_of(record))
                } else if needs_upstream {
                    upstream_record(record)
                } else if has_made_records {
                    routed_record(record)
                } else if is_special {
                    object_record(record, Origin::Settings)
                } else {
                    object_record(record, providers.origin_of(record))
                }
            });
            reports.collect()
        });

        let kernel = (self.explain_kernel)(name, rtype);
        let why = self.why_not_kernel(&kernel, &data, name, rtype);
        let steering = self.steering_of(&kernel);
        let is_name_forwarded = forwarded
            .first()
            .is_some_and(|first| first.name == *name && !first.servers.is_empty());
        let plane = match &kernel {
            KernelExplanation::On(explained)
                if explained.is_attached && explained.plain.is_answer() =>
            {
                AnsweringPlane::Kernel
            }
            _ if self.listen.is_empty() && !steering.is_steered() => AnsweringPlane::Neither,
            _ if is_name_forwarded => AnsweringPlane::Upstream,
            _ => AnsweringPlane::Agent,
        };
        let mut notes: Vec<String> = forwarded.iter().map(forwarding_note).collect();
        if is_transfer(rtype) {
            notes.push("zone transfers are refused: `dns-agent dump` prints zones".to_owned());
        }
        if is_nxname(rtype) {
            let note = "NXNAME is only a mark in signed answers, so asking for it is an error (RFC \
                        9824 section 3.5)";
            notes.push(note.to_owned());
        }
        // Of the agent's own answers, only negative ones have an authority section.
        if !needs_upstream && !authority.is_empty() {
            notes.extend(providers.reasons_for_absence(name, rtype));
        }
        if plane == AnsweringPlane::Neither {
            notes.push(
                "the agent has no --listen, so the query goes to its destination as without \
                 Zerohop; the records above are the answer that the agent would give"
                    .to_owned(),
            );
        }
        let mut upstreams = Vec::new();
        for server in forwarded.iter().flat_map(|question| &question.servers) {
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
            steering: steering.describe(),
            upstreams,
            route: route.map(|route| route.to_string()),
            notes,
        }
    }

    /// What steering makes of the question of a client without EDNS.
    fn steering_of(&self, kernel: &KernelExplanation) -> QuestionSteering {
        let KernelExplanation::On(explained) = kernel else {
            return QuestionSteering::NotConcerned;
        };
        let outcome = explained.plain;
        if !explained.is_attached || outcome.is_answer() {
            return QuestionSteering::NotConcerned;
        }
        let steering = self.board.steering();
        match steering.state {
            SteeringState::Off => QuestionSteering::NotConcerned,
            SteeringState::Unavailable | SteeringState::Waiting => {
                QuestionSteering::Passed(steering.reason)
            }
            SteeringState::On if outcome.is_for_resolver() => {
                QuestionSteering::Steered(steering.device)
            }
            SteeringState::On => {
                let reason = format!("queries that pass with {} are not", outcome.name());
                QuestionSteering::Passed(reason)
            }
        }
    }

    /// Why the kernel doesn't answer clients without EDNS. `None` when it answers them.
    fn why_not_kernel(
        &self,
        kernel: &KernelExplanation,
        data: &dyn ZoneData,
        name: &Name,
        rtype: Rtype,
    ) -> Option<String> {
        let explained = match kernel {
            KernelExplanation::Off => {
                return Some(
                    "the kernel plane is off, because --interface is not given".to_owned(),
                );
            }
            KernelExplanation::Failed(reason) => return Some(reason.clone()),
            KernelExplanation::On(explained) => explained,
        };
        if !explained.is_attached {
            let missing_and_degraded = self.board.missing_and_degraded().join("; ");
            return Some(format!(
                "the kernel program is attached to no interface: {missing_and_degraded}"
            ));
        }
        if explained.plain.is_answer() {
            return None;
        }
        let explain = |outcome| match outcome {
            Outcome::LeaseStale => self.explain_stale_lease(),
            _ => explain_outcome(outcome, data, name, rtype),
        };
        let outcome = explained.plain;
        let mut why = format!("{}: {}", outcome.name(), explain(outcome));
        match explained.edns {
            Some(outcome) if outcome.is_answer() => {
                why += "; clients with EDNS (1232 bytes) get the answer from the kernel";
            }
            Some(outcome) => {
                why += &format!(
                    "; with EDNS (1232 bytes) {}: {}",
                    outcome.name(),
                    explain(outcome)
                );
            }
            None => {}
        }
        Some(why)
    }

    /// Why the lease has ended: the agent ended it, for one of the reasons on the board, or the
    /// publisher did not renew it in time. The board doesn't say which reasons end the lease.
    fn explain_stale_lease(&self) -> String {
        match self.board.missing_and_degraded().as_slice() {
            [] => "the agent did not renew its lease within --stale-after: its publisher is busy \
                   or stuck; see the agent's log"
                .to_owned(),
            missing_and_degraded => format!(
                "the lease has ended; the status shows: {}",
                missing_and_degraded.join("; ")
            ),
        }
    }
}

impl ResolverAnswer {
    fn read(message: Option<&[u8]>, forwarded: Vec<UpstreamLookup>) -> ResolverAnswer {
        let header = message.and_then(|message| Message::from_slice(message).ok());
        let records = message.and_then(Records::read).unwrap_or_default();
        // Typed data can be compared with the records of the zones.
        let typed = |record: Record| Record {
            data: record.data.typed(),
            ..record
        };
        ResolverAnswer {
            head: header.map(|message| (message.opt_rcode().to_string(), message.header().aa())),
            sections: (records.sections).map(|records| records.into_iter().map(typed).collect()),
            forwarded,
        }
    }
}

/// The result of forwarding a question, as a note.
fn forwarding_note(question: &UpstreamLookup) -> String {
    let name = &question.name;
    match &question.outcome {
        None => format!(
            "{name} is forwarded, and no upstream has answered within {} s",
            RESOLVER_TIMEOUT.as_secs_f32()
        ),
        Some(Ok(rcode)) => {
            format!("{name} is forwarded: an upstream answered {rcode}")
        }
        Some(Err(NoResponse::NoUpstream)) => {
            format!("{name} would be forwarded, but no --upstream is given")
        }
        Some(Err(NoResponse::ClusterDnsUnknown)) => format!(
            "{name} would be forwarded to the cluster's DNS, but no address of it is known except \
             this agent's own: correct --dns-service, or give --cluster-dns"
        ),
        Some(Err(NoResponse::NoAnswer)) => {
            format!("{name} is forwarded, but no upstream answered")
        }
        Some(Err(NoResponse::Overloaded)) => {
            format!("{name} was not forwarded, because too many queries wait for upstreams")
        }
    }
}

/// Whether a record is in the zones' data, or is the SOA record of a zone's negative answers.
fn is_in_zones(data: &dyn ZoneData, record: &Record) -> bool {
    let is_soa = |zone: &Apex| zone.negative_soa() == *record;
    match data.answer(&record.owner, record.data.rtype()) {
        Answer::Data { answer, .. } if answer.contains(record) => true,
        _ => data.zones().iter().any(is_soa),
    }
}

impl KernelExplanation {
    fn report(&self) -> KernelReport {
        let KernelExplanation::On(explained) = self else {
            return KernelReport {
                state: match self {
                    KernelExplanation::Failed(_) => KernelState::Failed,
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

fn object_record(record: &Record, origin: Origin) -> RecordReport {
    RecordReport {
        record: record.to_string(),
        settings: origin == Origin::Settings,
        objects: match origin {
            Origin::Objects(objects) => objects,
            Origin::Settings | Origin::Unknown => Vec::new(),
        },
        upstream: false,
        route: false,
    }
}

fn upstream_record(record: &Record) -> RecordReport {
    RecordReport {
        record: record.to_string(),
        settings: false,
        objects: Vec::new(),
        upstream: true,
        route: false,
    }
}

fn routed_record(record: &Record) -> RecordReport {
    RecordReport {
        upstream: false,
        route: true,
        ..upstream_record(record)
    }
}

/// Why the kernel program passes a well-formed query from a client that it may answer.
fn explain_outcome(outcome: Outcome, data: &dyn ZoneData, name: &Name, rtype: Rtype) -> String {
    let parent = || {
        name.parent()
            .map_or_else(String::new, |parent| parent.to_string())
    };
    match outcome {
        Outcome::NotServed => {
            "no address is served: correct --dns-service, or give --serve".to_owned()
        }
        Outcome::NameLength if name.wire().len() < MIN_NAME => format!(
            "the name has {} bytes, and the kernel looks up names of {MIN_NAME} bytes or more",
            name.wire().len()
        ),
        Outcome::NameLength => format!(
            "the kernel's tables have no record of the name, and its parent {} has fewer than \
             {MIN_NAME} bytes, so the kernel doesn't know which names exist",
            parent()
        ),
        Outcome::NonstandardName => {
            "the name has more labels than the kernel program reads".to_owned()
        }
        Outcome::MetaType => format!("{rtype} is a meta type, which no record has"),
        Outcome::PassMark => explain_pass_mark(data, name, rtype),
        Outcome::BelowUnknown => format!(
            "names may exist below {} that the kernel's tables don't hold, so the kernel doesn't \
             know whether this one exists",
            parent()
        ),
        Outcome::TagCollision => {
            "another name in the kernel's tables has the same hash tag, so the kernel doesn't know \
             whether this name has a record"
                .to_owned()
        }
        Outcome::PassSuffix | Outcome::NotAuthoritative => match data.zone_of(name) {
            None => "the name is outside the zones".to_owned(),
            Some(zone) => format!(
                "the kernel's tables don't hold all names of this part of {}, so the kernel \
                 doesn't know which names exist",
                data.zones()[zone].name
            ),
        },
        Outcome::TooLarge => {
            "the answer is longer than a reply may be: 512 bytes without EDNS, and at most 1232 \
             bytes with EDNS"
                .to_owned()
        }
        // Not expected: other outcomes need another packet or client.
        _ => "the kernel program passes the query".to_owned(),
    }
}

/// Why a name's record is marked to pass.
fn explain_pass_mark(data: &dyn ZoneData, name: &Name, rtype: Rtype) -> String {
    match data.answer(name, rtype) {
        Answer::Alias { target, .. } => {
            format!("the name is an alias of {target}, and other servers answer for {target}")
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
                "the kernel can't store this answer ({} records): a stored answer has at most \
                 {MAX_ANSWER_LENGTH} bytes, all its orders have at most {MAX_RECORD_LENGTH}, and the \
                 answer of a computed name can't contain the name",
                answer.len()
            )
        }
        Answer::NotAuthoritative => {
            "the name, or its data of this type, is delegated to CoreDNS".to_owned()
        }
        _ => {
            "the name is an alias, and the kernel doesn't store its answer of this type".to_owned()
        }
    }
}
