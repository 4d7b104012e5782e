//! Which server block receives a query for a name (CoreDNS, `core/dnsserver/server.go`).

use std::collections::BTreeMap;

use zerohop_zone::Name;

use super::finding::{CorefileFinding, CorefileProblem};
use super::parser::{CorefileLine, Directive, ParsedBlock};
use super::place::Place;
use super::zones::{BlockTransport, ZoneAddress};
use crate::coredns_config::ListeningPorts;

/// A server block with parsed keys.
pub(super) struct ServerBlock<'a> {
    keys: Vec<BlockKey>,
    pub(super) directives: &'a [Directive],
}

/// A zone that a server block serves.
struct BlockKey {
    place: Place,
    zone: Name,
    transport: BlockTransport,
}

/// Finds the `kubernetes` plugin of the server blocks for plain DNS, and its block. Fails if there
/// are several or none.
pub(super) fn find_kubernetes<'a, 'b>(
    blocks: &'b [ServerBlock<'a>],
) -> Result<(&'b ServerBlock<'a>, &'a Directive), CorefileProblem> {
    // Zerohop answers only plain DNS, so blocks that have only other transports don't matter.
    let plain = blocks
        .iter()
        .filter(|block| block.plain_keys().next().is_some());
    let mut all = plain.flat_map(|block| {
        let directives = block
            .directives
            .iter()
            .filter(|directive| directive.name() == "kubernetes");
        directives.map(move |directive| (block, directive))
    });
    let only = all.next().ok_or_else(|| {
        CorefileProblem::without_line("no server block for plain DNS has a `kubernetes` plugin")
    })?;
    match all.next() {
        None => Ok(only),
        Some((_, second)) => Err(second.head.problem("there is a second `kubernetes` plugin")),
    }
}

/// Checks that the blocks for plain DNS listen at the same addresses. CoreDNS chooses a block among
/// those that listen at the query's address.
pub(super) fn check_binds(blocks: &[ServerBlock<'_>]) -> Result<(), CorefileProblem> {
    let plain = blocks.iter();
    let mut plain = plain.filter(|block| block.plain_keys().next().is_some());
    let Some(first) = plain.next() else {
        return Ok(());
    };
    let wanted = first.bind_words();
    match plain.find(|block| block.bind_words() != wanted) {
        None => Ok(()),
        Some(other) => {
            let cause = "`bind` makes server blocks listen at different addresses";
            Err(match other.first_place() {
                Some(place) => CorefileProblem::new(place, cause),
                None => CorefileProblem::without_line(cause),
            })
        }
    }
}

/// Checks that the blocks for plain DNS listen at the same port, so that each of them receives the
/// queries of its zones.
pub(super) fn check_ports(blocks: &[ServerBlock<'_>]) -> Result<(), CorefileProblem> {
    let mut keys = blocks.iter().flat_map(ServerBlock::plain_keys);
    let Some((_, first)) = keys.next() else {
        return Ok(());
    };
    match keys.find(|(_, port)| *port != first) {
        None => Ok(()),
        Some((key, _)) => {
            let cause = "server blocks listen at different ports";
            Err(CorefileProblem::new(&key.place, cause))
        }
    }
}

impl<'a> ServerBlock<'a> {
    /// Parses a server block's keys. Keys for ports at which no queries to the cluster's DNS arrive
    /// count as keys for other transports.
    pub(super) fn read(
        block: &'a ParsedBlock,
        ports: ListeningPorts,
    ) -> Result<ServerBlock<'a>, CorefileProblem> {
        let mut keys = Vec::new();
        for key in &block.keys {
            let address = ZoneAddress::parse(&key.text, ports.default)
                .map_err(|cause| CorefileProblem::new(&key.place, cause))?;
            let transport = match (address.transport, ports.queried) {
                (BlockTransport::Plain(port), Some(queried)) if port != queried => {
                    BlockTransport::Other
                }
                (transport, _) => transport,
            };
            keys.extend((address.zones.into_iter()).map(|zone| BlockKey {
                place: key.place.clone(),
                zone,
                transport,
            }));
        }
        let directives = &block.directives;
        Ok(ServerBlock { keys, directives })
    }

    /// The block's zones. Plugins that name no zones apply to these zones.
    pub(super) fn zones(&self) -> Vec<Name> {
        self.keys.iter().map(|key| key.zone.clone()).collect()
    }

    /// The place of the block's first key. `None` if the block has no key.
    pub(super) fn first_place(&self) -> Option<&Place> {
        self.keys.first().map(|key| &key.place)
    }

    /// The wire length, in bytes, of the block's longest zone for plain DNS at or above `zone`.
    /// `None` if there is no such zone.
    pub(super) fn matched_length(&self, zone: &Name) -> Option<usize> {
        let keys = self
            .plain_keys()
            .filter(|(key, _)| zone.is_at_or_below(&key.zone));
        keys.map(|(key, _)| key.zone.wire().len()).max()
    }

    /// Finds the names in `zones` whose queries don't reach this block, or may not reach it.
    /// `place` is the place of the finding about zones outside this block's keys.
    pub(super) fn find_unserved_names(
        &self,
        blocks: &[ServerBlock<'_>],
        place: &Place,
        zones: &[Name],
    ) -> Vec<CorefileFinding> {
        let is_unserved = |zone: &&Name| {
            !self
                .plain_keys()
                .any(|(key, _)| zone.is_at_or_below(&key.zone))
        };
        let unserved = zones.iter().filter(is_unserved).cloned().collect();
        let cause = "`kubernetes` has zones that its server block does not serve over plain DNS";
        let mut findings = vec![CorefileFinding::new(place, cause, unserved)];
        let others = blocks.iter().filter(|other| !std::ptr::eq(*other, self));
        for (key, port) in others.flat_map(ServerBlock::plain_keys) {
            let mut names_by_reason: BTreeMap<String, Vec<Name>> = BTreeMap::new();
            for (reason, name) in (zones.iter())
                .filter_map(|zone| self.find_name_for_other_block(zone, &key.zone, port))
            {
                names_by_reason.entry(reason).or_default().push(name);
            }
            findings.extend(names_by_reason.into_iter().map(|(reason, names)| {
                let cause = format!("the server block for {} {reason}", key.zone);
                CorefileFinding::new(&key.place, cause, names)
            }));
        }
        findings
    }

    /// Checks whether another block may receive queries at or below `zone`. `key` is a zone of the
    /// other block, which listens on `port`. Returns the reason, as a clause about the other block,
    /// and the highest name that the queries are for. `None`: the other block receives none.
    fn find_name_for_other_block(
        &self,
        zone: &Name,
        key: &Name,
        port: u16,
    ) -> Option<(String, Name)> {
        if key != zone && key.is_at_or_below(zone) {
            let reason = "receives the queries for this name and the names below it";
            return Some((reason.to_owned(), key.clone()));
        }
        if !zone.is_at_or_below(key) {
            return None;
        }
        let own_keys = self
            .plain_keys()
            .filter(|(own, own_port)| *own_port == port && zone.is_at_or_below(&own.zone));
        let Some((own, _)) = own_keys.max_by_key(|(own, _)| own.zone.wire().len()) else {
            // It isn't known which port the Service uses.
            let reason = format!("listens on port {port}, and the DNS Service may use that port");
            return Some((reason, zone.clone()));
        };
        if key.is_at_or_below(&own.zone) {
            return Some((
                "receives the queries for these names".to_owned(),
                zone.clone(),
            ));
        }
        // A query goes to the block with the longest key. A DS query goes to the block with the
        // shortest key other than the root.
        (*key != Name::root()).then(|| ("receives the DS queries".to_owned(), zone.clone()))
    }

    /// The words of the block's `bind` lines.
    fn bind_words(&self) -> Vec<&str> {
        let binds = self.directives.iter().filter(|it| it.name() == "bind");
        let lines = binds.flat_map(|bind| std::iter::once(&bind.head).chain(&bind.body));
        let words = lines.flat_map(CorefileLine::words);
        words.map(String::as_str).collect()
    }

    /// Whether the block receives plain DNS.
    pub(super) fn is_for_plain_dns(&self) -> bool {
        self.plain_keys().next().is_some()
    }

    /// The zones for plain DNS.
    pub(super) fn plain_zones(&self) -> Vec<Name> {
        self.plain_keys().map(|(key, _)| key.zone.clone()).collect()
    }

    /// The block's keys for plain DNS, each with its port.
    fn plain_keys(&self) -> impl Iterator<Item = (&BlockKey, u16)> {
        self.keys.iter().filter_map(|key| match key.transport {
            BlockTransport::Plain(port) => Some((key, port)),
            BlockTransport::Other => None,
        })
    }
}
