//! A group of servers that counts only after it has answered from here.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};
use zerohop_routes::{ForwardGroup, GroupTrust};
use zerohop_zone::{Name, Rtype};

use crate::{
    response::{NoResponse, Response},
    upstream::ServerSet,
};

/// A group that has answered doesn't count any more after this many different questions in
/// succession without an answer.
const MAX_FAILURES: usize = 3;
/// The most questions that are asked at the same time to find out whether a group answers. Of more,
/// the newest ones are asked.
const MAX_QUESTIONS: usize = 3;
/// The time after which a group that has not answered is asked again at the earliest, and its upper
/// bound. It is doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// A name and a type.
pub(super) type ProofQuestion = (Name, Rtype);

/// A group of servers in use.
#[derive(Debug)]
pub(in super::super) struct LiveGroup {
    pub(in super::super) set: ServerSet,
    pub(super) trust: GroupTrust,
    origin: String,
    is_used: AtomicBool,
    /// Different questions in succession without an answer.
    failures: Mutex<Vec<ProofQuestion>>,
    proof: Mutex<GroupProof>,
}

/// The questions that a group is asked to find out whether it answers.
#[derive(Debug, Default)]
struct GroupProof {
    /// Those that have arrived since the last attempt.
    questions: VecDeque<ProofQuestion>,
    stage: ProofStage,
    /// The pause before the next attempt.
    pause: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ProofStage {
    #[default]
    Idle,
    Running,
    /// The next attempt is made at this time at the earliest.
    PausedUntil(Instant),
}

/// Whether a group is to be asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ProofDue {
    No,
    /// These questions, now.
    Now(Vec<ProofQuestion>),
    /// At this time.
    At(Instant),
}

impl LiveGroup {
    /// `None` if a server's name is not the name of a certificate.
    pub(super) fn new(group: &ForwardGroup) -> Option<LiveGroup> {
        let set = ServerSet::of_group(group);
        let set = set.inspect_err(|error| warn!("{}: {error:#}", group.origin));
        Some(LiveGroup {
            set: set.ok()?,
            trust: group.trust,
            origin: group.origin.clone(),
            is_used: AtomicBool::new(group.trust == GroupTrust::Given),
            failures: Mutex::default(),
            proof: Mutex::default(),
        })
    }

    /// Whether queries are sent to the group.
    pub(in super::super) fn is_used(&self) -> bool {
        self.is_used.load(Relaxed)
    }

    /// Records how a question to the group has ended.
    pub(in super::super) fn record_outcome(
        &self,
        question: ProofQuestion,
        result: &Result<Arc<Response>, NoResponse>,
    ) {
        match result {
            Ok(response) if response.is_answer() => self.record_answer(),
            Err(NoResponse::NoAnswer) => self.record_failure(question),
            // The servers are reached, or were not asked.
            Ok(_) | Err(_) => {}
        }
    }

    /// Remembers a question for the group. Returns whether the group may be asked at once.
    pub(super) fn want_proof(&self, name: &Name, rtype: Rtype) -> bool {
        let question = (name.clone(), rtype);
        let mut proof = self.lock_proof();
        if !proof.questions.contains(&question) {
            proof.questions.push_back(question);
        }
        if proof.questions.len() > MAX_QUESTIONS {
            proof.questions.pop_front();
        }
        proof.stage != ProofStage::Running
    }

    /// Takes the questions of the next attempt if it is due.
    pub(super) fn take_questions(&self, now: Instant) -> ProofDue {
        let mut proof = self.lock_proof();
        if proof.questions.is_empty() || self.is_used() {
            return ProofDue::No;
        }
        match proof.stage {
            ProofStage::Running => ProofDue::No,
            ProofStage::PausedUntil(time) if time > now => ProofDue::At(time),
            ProofStage::Idle | ProofStage::PausedUntil(_) => {
                proof.stage = ProofStage::Running;
                ProofDue::Now(proof.questions.drain(..).collect())
            }
        }
    }

    /// Ends an attempt.
    pub(super) fn end_attempt(&self, now: Instant) {
        let mut proof = self.lock_proof();
        if self.is_used() {
            *proof = GroupProof::default();
            return;
        }
        proof.pause = (proof.pause * 2).clamp(FIRST_PAUSE, MAX_PAUSE);
        proof.stage = ProofStage::PausedUntil(now + proof.pause);
    }

    fn record_answer(&self) {
        self.lock_failures().clear();
        if !self.is_used.swap(true, Relaxed) {
            info!(
                "{}: {} answers from this node, so the agent asks it and no longer the cluster's \
                 DNS for its names",
                self.origin,
                self.describe_servers()
            );
        }
    }

    fn record_failure(&self, question: ProofQuestion) {
        if self.trust == GroupTrust::Given {
            return;
        }
        let mut failures = self.lock_failures();
        // Clients that wait for the same question report the same failure.
        if !failures.contains(&question) {
            failures.push(question);
        }
        if failures.len() < MAX_FAILURES {
            return;
        }
        failures.clear();
        if self.is_used.swap(false, Relaxed) {
            warn!(
                "{}: {} has not answered {MAX_FAILURES} questions in succession, so the cluster's \
                 DNS is asked for its names until it answers again",
                self.origin,
                self.describe_servers()
            );
        }
    }

    fn describe_servers(&self) -> String {
        let servers: Vec<SocketAddr> = self.set.addresses();
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        servers.join(", ")
    }

    fn lock_failures(&self) -> MutexGuard<'_, Vec<ProofQuestion>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_proof(&self) -> MutexGuard<'_, GroupProof> {
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
