//! How other plugins change the answers of `kubernetes`.
//!
//! CoreDNS asks the plugins of a server block in an order that is compiled in (`plugin.cfg`), and
//! not in that of the Corefile. A plugin after the one that answers gets no question that is
//! answered.
//!
//! The plugins in this module, and those that its callers handle (`kubernetes` and `cache`, in
//! NodeLocal DNSCache `bind`, `cache` and `forward`), are an allow-list. Any other plugin may
//! answer any query. So it makes everything pass or, in NodeLocal DNSCache, all zones of its server
//! block.

use zerohop_zone::{ChangedAnswers, Name, Rtype};

use super::finding::{CorefileFinding, CorefileProblem};
use super::hosts;
use super::parser::{CorefileLine, Directive};
use super::rewrite::{RewriteRule, parse_type};
use super::zones::{is_reverse, parse_name, zones_or_default};
use crate::coredns_config::CoreDnsConfig;

/// The plugin that answers the names of a server block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AnsweringPlugin {
    Kubernetes,
    /// In NodeLocal DNSCache.
    Forward,
}

/// The plugins after `kubernetes` that answer questions. In CoreDNS's order those before `forward`
/// come first.
const AFTER_KUBERNETES: [&str; 9] = [
    "file",
    "auto",
    "secondary",
    "etcd",
    "grpc",
    "erratic",
    "whoami",
    "sign",
    "nomad",
];

/// The plugins that a server block may have only once. CoreDNS refuses a Corefile with another one
/// (`plugin.ErrOnce` in their `setup.go`).
const ONCE_PER_BLOCK: [&str; 13] = [
    "cache",
    "dnssec",
    "errors",
    "grpc",
    "hosts",
    "kubernetes",
    "loop",
    "nsid",
    "pprof",
    "prometheus",
    "ready",
    "shed",
    "tsig",
];

/// The zones that `local` answers.
pub(super) const LOCAL_ZONES: [&str; 4] = [
    "localhost",
    "0.in-addr.arpa",
    "127.in-addr.arpa",
    "255.in-addr.arpa",
];

/// Reads the plugins of a server block.
pub(super) struct PluginReader<'a> {
    pub(super) config: &'a CoreDnsConfig,
    /// The plugin that answers the block's names.
    pub(super) answering: AnsweringPlugin,
    /// The zones of the block.
    pub(super) block_zones: &'a [Name],
    /// The zones of `kubernetes` or, in NodeLocal DNSCache, the zones for which the block receives
    /// queries.
    pub(super) answered: &'a [Name],
}

/// Checks that no plugin is repeated that CoreDNS accepts only once in a server block. CoreDNS
/// keeps its previous Corefile then.
pub(super) fn check_repetitions(directives: &[Directive]) -> Result<(), CorefileProblem> {
    for (at, directive) in directives.iter().enumerate() {
        let name = directive.name();
        let is_repeated = directives[..at].iter().any(|before| before.name() == name);
        if is_repeated && ONCE_PER_BLOCK.contains(&name) {
            let cause = format!("CoreDNS refuses a second `{name}` in a server block");
            return Err(directive.head.problem(cause));
        }
    }
    Ok(())
}

impl PluginReader<'_> {
    /// Finds the names that a plugin may answer or change. Fails if Zerohop can't tell which, for
    /// example for an unknown plugin.
    pub(super) fn read(
        &self,
        directive: &Directive,
    ) -> Result<Vec<CorefileFinding>, CorefileProblem> {
        let PluginReader {
            config,
            answering,
            block_zones,
            answered,
        } = *self;
        directive.check_complete()?;
        let head = &directive.head;
        let args = head.args();
        match directive.name() {
            // These plugins monitor answers, or manage the process.
            "cancel" | "debug" | "dnstap" | "errors" | "geoip" | "health" | "log" | "loop"
            | "metadata" | "multisocket" | "pprof" | "prometheus" | "ready" | "reload" | "root"
            | "shed" | "timeouts" | "trace" => Ok(Vec::new()),
            // `tls` concerns other transports, and `chaos` queries of class CH.
            "chaos" | "tls" => Ok(Vec::new()),
            // `blocks::check_binds` compares the addresses of all blocks.
            "bind" if answering == AnsweringPlugin::Kubernetes => Ok(Vec::new()),
            // `nsid` adds an option to answers to queries that ask for it, which always pass.
            "nsid" => Ok(Vec::new()),
            "local" if answering == AnsweringPlugin::Kubernetes => Ok(read_local(head)),
            "dns64" if answering == AnsweringPlugin::Kubernetes => read_dns64(directive),
            "dnssec" if answering == AnsweringPlugin::Kubernetes => {
                read_dnssec(head, block_zones, answered)
            }
            "any" => {
                let (cause, names) = ("`any` answers queries for ANY", vec![Name::root()]);
                let types = [Rtype::ANY];
                Ok(vec![CorefileFinding::about_types(
                    &head.place,
                    cause,
                    names,
                    types,
                )])
            }
            name if answering == AnsweringPlugin::Kubernetes
                && AFTER_KUBERNETES.contains(&name) =>
            {
                Ok(Vec::new())
            }
            // `forward` runs after `kubernetes`, for names that pass anyway.
            "forward" => Ok(Vec::new()),
            // `bufsize` only limits the size of answers over UDP.
            "bufsize" => Ok(Vec::new()),
            // `transfer` answers AXFR and IXFR, which always pass.
            "transfer" => Ok(Vec::new()),
            "loadbalance" => read_loadbalance(directive),
            "hosts" => hosts::read_hosts(directive, config, block_zones, answered),
            "rewrite" => read_rewrite(directive),
            "minimal" if answering == AnsweringPlugin::Kubernetes => Ok(vec![read_minimal(head)]),
            "template" if answering == AnsweringPlugin::Kubernetes => {
                read_template(head, block_zones, answered)
            }
            // Zones follow a class and a type.
            "template" if args.len() >= 2 => zones_finding(head, &args[2..], block_zones),
            // Zones follow a file's name.
            "file" if !args.is_empty() => zones_finding(head, &args[1..], block_zones),
            "acl" | "auto" | "etcd" | "k8s_external" => zones_finding(head, args, block_zones),
            "autopath" if answering == AnsweringPlugin::Kubernetes => {
                read_autopath(head, block_zones)
            }
            "azure" | "clouddns" | "route53" => read_hosted_zones(head),
            // With `catalog`, `secondary` also answers zones that the Corefile doesn't name.
            "secondary"
                if directive
                    .body
                    .iter()
                    .all(|option| option.name() != "catalog") =>
            {
                zones_finding(head, args, block_zones)
            }
            name => Err(head.problem(format!(
                "`{name}` is not a plugin that Zerohop understands here"
            ))),
        }
    }
}

/// Reads `loadbalance`. The policy `round_robin` shuffles addresses, as Zerohop does. The policy
/// `weighted` and the option `prefer` choose which address comes first, so answers with a single
/// address stay as they are.
fn read_loadbalance(directive: &Directive) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let head = &directive.head;
    let args: Vec<&str> = head.args().iter().map(String::as_str).collect();
    let (cause, option) = match args.as_slice() {
        [] | ["round_robin"] if directive.body.is_empty() => return Ok(Vec::new()),
        [] | ["round_robin"] => ("`prefer` orders the addresses of answers", "prefer"),
        ["weighted", _file] => ("`weighted` orders the addresses of answers", "reload"),
        _ => return Err(head.problem(format!("`{head}` is not a policy that Zerohop knows"))),
    };
    if let Some(unknown) = directive.body.iter().find(|line| line.name() != option) {
        let cause = format!(
            "`{}` is not an option that Zerohop knows here",
            unknown.name()
        );
        return Err(unknown.problem(cause));
    }
    Ok(vec![CorefileFinding::about_answers(
        &head.place,
        cause,
        vec![Name::root()],
        ChangedAnswers::SeveralAddresses,
    )])
}

/// The finding about a plugin that may answer any name in its zones.
fn zones_finding(
    head: &CorefileLine,
    zones: &[String],
    block_zones: &[Name],
) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let names = zones_or_default(head, zones, block_zones)?;
    let cause = format!("`{}` may answer names in its zones", head.name());
    Ok(vec![CorefileFinding::new(&head.place, cause, names)])
}

/// `minimal` removes the additional records of answers, which only those to queries for NS and SRV
/// have.
fn read_minimal(head: &CorefileLine) -> CorefileFinding {
    let cause = "`minimal` removes additional records";
    let types = [Rtype::NS, Rtype::SRV];
    CorefileFinding::about_types(&head.place, cause, vec![Name::root()], types)
}

/// Reads `template`, which answers queries of a class and a type in its zones (CoreDNS,
/// `plugin/template`).
fn read_template(
    head: &CorefileLine,
    block_zones: &[Name],
    answered: &[Name],
) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let [class, rtype, zones @ ..] = head.args() else {
        return Err(head.problem("`template` has no class and type"));
    };
    match class.as_str() {
        "IN" | "ANY" => {}
        // Queries of other classes always pass.
        "CH" | "CS" | "HS" | "NONE" => return Ok(Vec::new()),
        _ => return Err(head.problem(format!("`{class}` is not a class that Zerohop knows"))),
    }
    if rtype == "ANY" {
        return zones_finding(head, zones, block_zones);
    }
    let rtype = parse_type(rtype).map_err(|cause| head.problem(cause))?;
    let zones = zones_or_default(head, zones, block_zones)?;
    let holds_answered = |zone: &Name| {
        answered
            .iter()
            .any(|answered| answered.is_at_or_below(zone))
    };
    let (whole, parts) = zones.into_iter().partition(holds_answered);
    let cause = "`template` may answer names in its zones";
    Ok(vec![
        CorefileFinding::about_types(&head.place, cause, whole, [rtype]),
        CorefileFinding::new(&head.place, cause, parts),
    ])
}

/// Reads `dnssec`, which signs the answers to queries with the DO bit, and has DNSKEY records at
/// its zones (CoreDNS, `plugin/dnssec`).
fn read_dnssec(
    head: &CorefileLine,
    block_zones: &[Name],
    answered: &[Name],
) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let zones = zones_or_default(head, head.args(), block_zones)?;
    let is_inside = |zone: &&Name| {
        let mut answered = answered.iter();
        let is_own = |answered: &Name| *zone == answered && !is_reverse(zone);
        answered.any(|answered| zone.is_at_or_below(answered) && !is_own(answered))
    };
    let inside = zones.iter().filter(is_inside).cloned().collect();
    let cause = "`dnssec` has keys of these zones";
    let keys = CorefileFinding::new(&head.place, cause, inside);
    let cause = "`dnssec` signs answers in its zones";
    let signatures = CorefileFinding::about_dnssec_ok(&head.place, cause, zones);
    Ok(vec![keys, signatures])
}

/// Reads `autopath`, which answers an absent name below a search domain of the client with the
/// records of another name. Its last argument is a file or a plugin.
fn read_autopath(
    head: &CorefileLine,
    block_zones: &[Name],
) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let [zones @ .., _search_path] = head.args() else {
        return Err(head.problem("`autopath` has no search path"));
    };
    let zones = zones_or_default(head, zones, block_zones)?;
    let cause = "`autopath` may answer absent names";
    Ok(vec![CorefileFinding::about_absent_names(
        &head.place,
        cause,
        zones,
    )])
}

/// Reads a plugin whose arguments are zones, each with an identifier before or after a colon.
fn read_hosted_zones(head: &CorefileLine) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let zone = |word: &String| {
        let parts = word.split_once(':');
        let zone = match (parts, head.name()) {
            (Some((_group, zone)), "azure") => zone,
            (Some((zone, _identifier)), _) => zone,
            (None, _) => {
                return Err(head.problem(format!("`{word}` is not a zone with an identifier")));
            }
        };
        parse_name(zone).map_err(|cause| head.problem(cause))
    };
    let zones = head.args().iter().map(zone).collect::<Result<_, _>>()?;
    let cause = format!("`{}` may answer names in its zones", head.name());
    Ok(vec![CorefileFinding::new(&head.place, cause, zones)])
}

/// `local` answers names that begin with `localhost`, and a few zones (CoreDNS, `plugin/local`).
fn read_local(head: &CorefileLine) -> Vec<CorefileFinding> {
    let cause = "`local` answers names that begin with `localhost`, which pass";
    let absent = CorefileFinding::about_absent_names(&head.place, cause, vec![Name::root()]);
    let zones = LOCAL_ZONES.iter().filter_map(|zone| parse_name(zone).ok());
    let cause = "`local` answers these zones";
    vec![
        absent,
        CorefileFinding::new(&head.place, cause, zones.collect()),
    ]
}

/// Reads `dns64`, which makes AAAA records of A records: for names without AAAA records or, with
/// `translate_all`, for all that exist.
fn read_dns64(directive: &Directive) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let head = &directive.head;
    let mut options = directive.body.iter();
    if let Some(unknown) =
        options.find(|line| !["allow_ipv4", "prefix", "translate_all"].contains(&line.name()))
    {
        let cause = format!(
            "`{}` is not an option that Zerohop knows here",
            unknown.name()
        );
        return Err(unknown.problem(cause));
    }
    let cause = "`dns64` may add AAAA records";
    let names = vec![Name::root()];
    let mut options = directive.body.iter();
    let finding = if options.any(|line| line.name() == "translate_all") {
        CorefileFinding::about_types(&head.place, cause, names, [Rtype::AAAA])
    } else {
        let changed = ChangedAnswers::WithoutType(Rtype::AAAA);
        CorefileFinding::about_answers(&head.place, cause, names, changed)
    };
    Ok(vec![finding])
}

/// Reads a rule of `rewrite`. A rule with a pattern of names isn't accepted here.
fn read_rewrite(directive: &Directive) -> Result<Vec<CorefileFinding>, CorefileProblem> {
    let rule = RewriteRule::read(directive)?;
    match rule.pattern() {
        None => Ok(vec![rule.finding()]),
        Some(_) => Err(directive.head.problem("`rewrite` has a pattern of names")),
    }
}
