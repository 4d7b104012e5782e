//! The comparison with each Corefile of `tests/corefiles`.

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use zerohop_contract::{
    corefile_shapes::{CoreDnsVerdict, CorefileShape},
    platforms::Answers,
};
use zerohop_tests::udp::eventually;

use crate::{
    LIMIT,
    agent::{AgentMode, ComparedAgent},
    client::RetryingClient,
    cluster::{LiveCluster, Marker},
    compare::Comparison,
    coredns::{CoreDnsContainer, StartedCoreDns},
    pod::{ClientPods, is_passed, rcode},
    questions::{A, AAAA, ComparedQuestion, EdnsChoice, SRV, is_at_or_below, make_questions},
    reply::TtlRule,
    served_address,
    settings::{ComparisonParts, ComparisonSettings, CorefileDiscovery, ShapeSettings},
    signals::StopRequest,
    tally::{AskedPlane, ComparisonTally},
    write_zoo,
};

/// The cluster domain of all shapes.
const ZONE: &str = "cluster.local";
/// Number of questions about the objects, for each shape. Questions about names that the shape's
/// texts mention are added.
const QUESTIONS: usize = 3000;
/// Number of these questions that are sent with the DO bit too.
const DNSSEC_OK_QUESTIONS: usize = 300;
/// The agent's flags. With `--pass-deviations`, no rule for a difference needs the answers to other
/// questions than those that are sent.
const MODE: AgentMode = AgentMode::PassDeviations;
const NXDOMAIN: u8 = 3;

/// Runs CoreDNS with each shape, and compares its answers with those of an agent.
pub(crate) fn compare_shapes(settings: &ShapeSettings) -> Result<ComparisonTally> {
    println!("seed {}", settings.seed);
    let signals = StopRequest::new()?;
    let mut cluster = LiveCluster::connect(&settings.kubeconfig, settings.seed, signals.clone())?;
    println!("namespaces {}-*", cluster.prefix);
    let api = cluster.pod_server()?;
    let service = cluster.create_dns_service()?;
    let mut pods = ClientPods::new(served_address(&service)?);
    let pod = pods.add_pod()?;
    let account = cluster.create_coredns_pod(pod.address)?;
    let container = CoreDnsContainer::new(&settings.coredns, api, &account, pod)?;
    write_zoo(&mut cluster, ZONE)?;
    let marker = cluster.write_marker()?;
    let mut run = ShapeRun {
        settings,
        cluster,
        pods,
        container,
        marker,
        signals,
    };
    let mut total = ComparisonTally::default();
    let (mut compared, mut refused) = (0, 0);
    for shape in CorefileShape::all() {
        if !settings.selects(&shape) {
            continue;
        }
        match run.compare(&shape)? {
            Some(tally) => {
                compared += 1;
                total.add(tally);
            }
            None => refused += 1,
        }
    }
    println!("\n{compared} shapes compared, {refused} refused by CoreDNS as their files say");
    total.print("all shapes");
    Ok(total)
}

/// What all shapes share.
struct ShapeRun<'a> {
    settings: &'a ShapeSettings,
    cluster: LiveCluster,
    pods: ClientPods,
    container: CoreDnsContainer,
    marker: Marker,
    signals: StopRequest,
}

impl ShapeRun<'_> {
    /// Compares with one shape. `None` if CoreDNS refuses it, as its file says.
    fn compare(&mut self, shape: &CorefileShape) -> Result<Option<ComparisonTally>> {
        self.signals.fail_if_stopped()?;
        let title = format!("{}/{}", shape.kind.folder(), shape.file);
        self.cluster
            .write_corefile_shape(shape, self.container.address())?;
        let started = self.container.start(shape)?;
        let _coredns = match (started, &shape.verdict) {
            (StartedCoreDns::Serving(process), CoreDnsVerdict::Accepts) => process,
            (
                StartedCoreDns::Ended(log),
                CoreDnsVerdict::LacksPlugin(word) | CoreDnsVerdict::Refuses(word),
            ) => {
                ensure!(
                    log.contains(word),
                    "{title}: CoreDNS does not name {word}: {log}"
                );
                println!("{title}: refused by CoreDNS because of {word}");
                return Ok(None);
            }
            (StartedCoreDns::Ended(log), CoreDnsVerdict::Accepts) => {
                bail!("{title}: CoreDNS ended: {log}")
            }
            (StartedCoreDns::Serving(_), verdict) => {
                bail!("{title}: CoreDNS runs with it, but the file says {verdict:?}")
            }
        };
        let settings = self.comparison_settings(shape);
        let agent = ComparedAgent::start(&settings, &self.cluster, &mut self.pods, MODE)?;
        let comparison = Comparison {
            settings: &settings,
            coredns: RetryingClient::new(settings.dns)?,
            agents: vec![agent],
            signals: self.signals.clone(),
        };
        self.wait_until_answered(&comparison, shape)
            .with_context(|| title.clone())?;
        let questions = self.questions(shape);
        let start = Instant::now();
        let asked = comparison.ask_once(&self.cluster.objects, &questions)?;
        let mut tally = ComparisonTally::default();
        asked.tallies.into_iter().for_each(|found| tally.add(found));
        let took = start.elapsed();
        let counts = &tally.counts[&(MODE.flags(), AskedPlane::Kernel)];
        println!(
            "{title}: {} questions in {took:.1?}, {} passed by the kernel",
            counts.asked, counts.passed
        );
        let passes_all = counts.passed == counts.asked;
        let is_expected = passes_all == (shape.answers == Answers::Nothing);
        ensure!(is_expected, "{title}: the file says {:?}", shape.answers);
        if tally.is_wrong() {
            tally.print(&title);
        }
        Ok(Some(tally))
    }

    fn comparison_settings(&self, shape: &CorefileShape) -> ComparisonSettings {
        let texts = shape.coredns.values().chain(shape.custom.values());
        let mut lines = texts.flat_map(|text| text.lines());
        let has_cache = lines.any(|line| line.split_whitespace().next() == Some("cache"));
        ComparisonSettings {
            kubeconfig: self.settings.kubeconfig.clone(),
            dns: self.container.dns(),
            corefile: shape.coredns["Corefile"].clone(),
            source: CorefileDiscovery::Pods,
            ttls: if has_cache {
                TtlRule::AtMost
            } else {
                TtlRule::Equal
            },
            zone: ZONE.to_owned(),
            agent: self.settings.agent.clone(),
            parts: ComparisonParts::All,
            seed: self.settings.seed,
            changes: 0,
            transitions: 0,
            restart_api: None,
            compact: None,
        }
    }

    /// Waits until both planes and CoreDNS answer as they should.
    fn wait_until_answered(
        &self,
        comparison: &Comparison<'_>,
        shape: &CorefileShape,
    ) -> Result<()> {
        let agent = &comparison.agents[0];
        let ask = |client: &RetryingClient, name: &str| client.ask(&question(name, A).message());
        let existing = self.marker.name.as_str();
        let absent = format!("absent.{existing}");
        let is_state = || -> Result<bool> {
            self.signals.fail_if_stopped()?;
            let [known, denied] = [existing, &absent].map(|name| ask(&agent.kernel, name));
            let [known, denied] = [known?, denied?];
            let is_expected = match shape.answers {
                Answers::Most => !is_passed(&known) && rcode(&denied) == Some(NXDOMAIN),
                Answers::Existing => !is_passed(&known) && is_passed(&denied),
                Answers::Nothing => {
                    is_passed(&known) && agent.process.status()?.contains("everything passes")
                }
            };
            let coredns = ask(&comparison.coredns, existing)?;
            let user_plane = ask(&agent.user_plane, existing)?;
            let has_answer = |reply: &[u8]| reply.get(6..8).is_some_and(|count| count != [0, 0]);
            Ok(is_expected && has_answer(&coredns) && has_answer(&user_plane))
        };
        ensure!(
            eventually(LIMIT, is_state)?,
            "the kernel does not answer {:?} after {LIMIT:?}:\n{}",
            shape.answers,
            agent.process.status()?
        );
        Ok(())
    }

    /// Some of the questions about all objects, and those about names that the texts mention. Each
    /// name is asked once for each type, with and without the DO bit, because CoreDNS counts TTLs
    /// down in its cache.
    fn questions(&self, shape: &CorefileShape) -> Vec<ComparedQuestion> {
        let mut random = StdRng::seed_from_u64(self.settings.seed);
        let objects = &self.cluster.objects;
        let mut questions = make_questions(objects, ZONE, &BTreeSet::new(), &mut random);
        questions.shuffle(&mut random);
        let mut seen = BTreeSet::new();
        let mut is_new = |question: &ComparedQuestion| {
            seen.insert((question.name.to_ascii_lowercase(), question.rtype))
        };
        let mentioned = mentioned_names(shape).into_iter();
        let mut asked: Vec<ComparedQuestion> = mentioned
            .flat_map(|name| [A, AAAA, SRV].map(|rtype| question(&name, rtype)))
            .filter(&mut is_new)
            .collect();
        let about_objects = questions.into_iter().filter(|question| {
            // Other names are not the cluster's, and CoreDNS's cache holds their records.
            question.is_inside(ZONE) || is_at_or_below(&question.name, "arpa")
        });
        asked.extend(about_objects.filter(is_new).take(QUESTIONS));
        let first = asked.iter().take(DNSSEC_OK_QUESTIONS).cloned();
        let dnssec_ok: Vec<_> = first
            .map(|question| ComparedQuestion {
                edns: EdnsChoice::DnssecOk,
                ..question
            })
            .collect();
        asked.extend(dnssec_ok);
        asked
    }
}

fn question(name: &str, rtype: u16) -> ComparedQuestion {
    ComparedQuestion {
        name: name.to_owned(),
        rtype,
        edns: EdnsChoice::Without,
    }
}

/// The names in a shape's texts, as the search list of a pod makes them.
fn mentioned_names(shape: &CorefileShape) -> BTreeSet<String> {
    let texts = shape.coredns.values().chain(shape.custom.values());
    let words = texts.flat_map(|text| {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '\\')))
    });
    let words = words.map(|word| word.replace('\\', "").trim_matches(['.', '-']).to_owned());
    let is_name = |word: &String| {
        let is_label = |label: &str| (1..64).contains(&label.len());
        word.contains('.') && word.len() < 100 && word.split('.').all(is_label)
    };
    let words: BTreeSet<String> = words.filter(is_name).collect();
    let expand = |word: &String| {
        let searched = ["default.svc.", "svc.", ""];
        let searched = searched.map(|domain| format!("{word}.{domain}{ZONE}"));
        let below = format!("web.{word}.default.svc.{ZONE}");
        searched.into_iter().chain([below])
    };
    words.iter().flat_map(expand).collect()
}
