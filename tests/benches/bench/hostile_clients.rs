//! What hostile clients cost the other clients of the agent's resolver.
//!
//! Each attack meets a new agent. Meanwhile well-behaved clients ask steadily from other addresses.

mod attack_list;
mod connections;
mod datagrams;
mod node;
mod others;

use std::{
    env, io,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use self::{
    attack_list::{HostileAttack, HostileTraffic},
    node::AttackedNode,
    others::{OthersTally, WellBehavedClients},
};

/// The goals for each attack, as in `docs/benchmarks.md`.
const LEAST_ANSWERED: f64 = 0.99;
const LONGEST_P99: Duration = Duration::from_millis(20);
/// The bound on the agent's resident memory in bytes, as in `docs/resolver.md`.
const MOST_RESIDENT: u64 = 176 << 20;

/// The argument with which this program is the attacker.
pub(crate) const ATTACK: &str = "--attack-resolver";
/// Runs a program in a session of its own. The kernel divides the processor among sessions, as it
/// does among pods.
const IN_OWN_SESSION: &str = "setsid";

/// The amount of work, and the program to attack.
pub(crate) struct HostileEffort {
    /// The duration of each attack.
    pub(crate) length: Duration,
    /// Only attacks with this text in their descriptions.
    pub(crate) filter: String,
    /// The agent's binary.
    pub(crate) agent: PathBuf,
}

/// The effects of one attack.
struct AttackEffects {
    /// Messages of the attackers for each second, or connections with half a message.
    rate: f64,
    others: OthersTally,
    /// The agent's largest resident memory, in bytes.
    peak: u64,
}

/// Prints a row for each attack. Adds the missed goals to `failures`.
pub(crate) fn measure(effort: &HostileEffort, failures: &mut Vec<String>) -> Result<()> {
    let attacks = attack_list::all();
    let chosen = attacks
        .iter()
        .filter(|attack| attack.name.contains(&effort.filter));
    println!(
        "Hostile clients, {:?} for each attack. Goals: answered >= {} %, p99 < {} ms, resident \
         memory <= {} MiB",
        effort.length,
        LEAST_ANSWERED * 100.0,
        LONGEST_P99.as_millis(),
        MOST_RESIDENT >> 20,
    );
    println!(
        "| attack | attacker's messages/s | others asked | answered | p50, ms | p99, ms | largest \
         resident memory, MiB | goals |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for attack in chosen {
        let effects = measure_attack(attack, effort)?;
        let missed = effects.missed_goals();
        effects.print(attack.name, &missed);
        failures.extend(missed.iter().map(|goal| format!("{}: {goal}", attack.name)));
    }
    Ok(())
}

/// Attacks from the current network namespace until the standard input ends. Then prints the number
/// of messages sent.
pub(crate) fn attack(name: &str) -> Result<()> {
    let attacks = attack_list::all();
    let attack = attacks.iter().find(|attack| attack.name == name);
    let attack = attack.with_context(|| format!("there is no attack {name:?}"))?;
    let (sent, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let ended = io::copy(&mut io::stdin(), &mut io::sink());
            is_over.store(true, Relaxed);
            ended
        });
        match &attack.traffic {
            HostileTraffic::Nothing => Ok(()),
            HostileTraffic::Datagrams(flood) => flood.send_until(&is_over, &sent),
            HostileTraffic::Connections(load) => load.hold_until(&is_over, &sent),
        }
    })?;
    println!("{}", sent.load(Relaxed));
    Ok(())
}

fn measure_attack(attack: &HostileAttack, effort: &HostileEffort) -> Result<AttackEffects> {
    let node = AttackedNode::start(attack.upstreams, &effort.agent)?;
    let clients = WellBehavedClients::new(&node);
    clients.fill_cache()?;
    let program = env::current_exe()?;
    let mut attacker = node.attacker().command(IN_OWN_SESSION)?;
    attacker.arg(program).args([ATTACK, attack.name]);
    attacker.stdin(Stdio::piped()).stdout(Stdio::piped());
    let started = Instant::now();
    let attacker = attacker.spawn().context("cannot start the attacker")?;
    let others = clients.ask_for(effort.length);
    // Waiting closes the attacker's input, which ends the attack.
    let output = attacker.wait_with_output()?;
    let took = started.elapsed().as_secs_f64();
    ensure!(output.status.success(), "the attacker failed");
    let sent: f64 = String::from_utf8_lossy(&output.stdout).trim().parse()?;
    Ok(AttackEffects {
        rate: sent / took,
        others: others?,
        peak: node.peak_resident_memory()?,
    })
}

impl AttackEffects {
    fn missed_goals(&self) -> Vec<String> {
        let mut missed = Vec::new();
        if self.others.answered_share() < LEAST_ANSWERED {
            missed.push(format!("answered: {}", self.others.describe()));
        }
        if self.others.percentile(99) >= LONGEST_P99 {
            missed.push(format!("p99: {}", self.others.describe()));
        }
        if self.peak > MOST_RESIDENT {
            missed.push("resident memory".to_owned());
        }
        missed
    }

    fn print(&self, name: &str, missed: &[String]) {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        println!(
            "| {name} | {:.0} | {} | {:.2} % | {:.2} | {:.2} | {:.1} | {} |",
            self.rate,
            self.others.asked(),
            self.others.answered_share() * 100.0,
            milliseconds(self.others.percentile(50)),
            milliseconds(self.others.percentile(99)),
            self.peak as f64 / f64::from(1 << 20),
            if missed.is_empty() { "met" } else { "missed" },
        );
    }
}
