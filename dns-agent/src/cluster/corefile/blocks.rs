//! Which server block a question for a name goes to (CoreDNS, `core/dnsserver/server.go`).

use std::collections::BTreeMap;

use crate::zone::Name;

use super::finding::{Finding, Unclear};
use super::parse::{Directive, ServerBlock};
use super::zones::{Address, Transport};

/// A server block.
pub(super) struct Block<'a> {
    /// What it is for; all of its keys have the same plugins.
    keys: Vec<Key>,
    pub(super) directives: &'a [Directive],
}

struct Key {
    line: usize,
    zone: Name,
    transport: Transport,
}

/// The one server block with a `kubernetes` plugin, and the plugin.
pub(super) fn only_kubernetes<'a, 'b>(
    blocks: &'b [Block<'a>],
) -> Result<(&'b Block<'a>, &'a Directive), Unclear> {
    // Blocks for other transports only are never asked where we stand.
    let plain = blocks.iter().filter(|block| block.plain().next().is_some());
    let mut all = plain.flat_map(|block| {
        let directives = block
            .directives
            .iter()
            .filter(|directive| directive.name() == "kubernetes");
        directives.map(move |directive| (block, directive))
    });
    let only = all
        .next()
        .ok_or_else(|| Unclear::anywhere("no server block has a `kubernetes` plugin"))?;
    match all.next() {
        None => Ok(only),
        Some((_, second)) => Err(second.head.unclear("`kubernetes` is there a second time")),
    }
}

impl<'a> Block<'a> {
    pub(super) fn read(block: &'a ServerBlock) -> Result<Block<'a>, Unclear> {
        let mut keys = Vec::new();
        for key in &block.keys {
            let line = key.line;
            let address = Address::parse(&key.text).map_err(|what| Unclear::new(line, what))?;
            let transport = address.transport;
            keys.extend((address.zones.into_iter()).map(|zone| Key {
                line,
                zone,
                transport,
            }));
        }
        let directives = &block.directives;
        Ok(Block { keys, directives })
    }

    /// Its zones, which are those of its plugins when they have none of their own.
    pub(super) fn zones(&self) -> Vec<Name> {
        self.keys.iter().map(|key| key.zone.clone()).collect()
    }

    /// The number of its first line, from 1, if it is for any zone.
    pub(super) fn line(&self) -> Option<usize> {
        self.keys.first().map(|key| key.line)
    }

    /// How long the longest of its keys is that a zone is at or below; none where there is none.
    pub(super) fn depth(&self, zone: &Name) -> Option<usize> {
        let keys = self
            .plain()
            .filter(|(key, _)| zone.is_at_or_below(&key.zone));
        keys.map(|(key, _)| key.zone.wire().len()).max()
    }

    /// What keeps questions for these zones of this block from it. `line` is the one on which they
    /// stand.
    pub(super) fn lost(&self, blocks: &[Block<'_>], line: usize, zones: &[Name]) -> Vec<Finding> {
        let is_lost = |zone: &&Name| !self.plain().any(|(key, _)| zone.is_at_or_below(&key.zone));
        let lost = zones.iter().filter(is_lost).cloned().collect();
        let what = "`kubernetes` is never asked for zones outside its server block";
        let mut findings = vec![Finding::new(line, what, lost)];
        let others = blocks.iter().filter(|other| !std::ptr::eq(*other, self));
        for (key, port) in others.flat_map(Block::plain) {
            let mut taken: BTreeMap<&str, Vec<Name>> = BTreeMap::new();
            for (why, name) in (zones.iter()).filter_map(|zone| self.taken(zone, &key.zone, port)) {
                taken.entry(why).or_default().push(name);
            }
            findings.extend(taken.into_iter().map(|(why, names)| {
                let what = format!("the server block for {} {why}", key.zone);
                Finding::new(key.line, what, names)
            }));
        }
        findings
    }

    /// The names of a zone of this block that go to another block's key on this port, and why.
    fn taken(&self, zone: &Name, key: &Name, port: u16) -> Option<(&'static str, Name)> {
        if key != zone && key.is_at_or_below(zone) {
            return Some(("is asked for the names in it", key.clone()));
        }
        if !zone.is_at_or_below(key) {
            return None;
        }
        let own = self
            .plain()
            .filter(|(own, on)| *on == port && zone.is_at_or_below(&own.zone));
        let Some((own, _)) = own.max_by_key(|(own, _)| own.zone.wire().len()) else {
            // Nothing here says which port the Service leads to.
            return Some((
                "has another port, which may be the one that is asked",
                zone.clone(),
            ));
        };
        if key.is_at_or_below(&own.zone) {
            return Some(("is asked instead", zone.clone()));
        }
        // The longest key wins, but not for DS: those go to the shortest but the root.
        (*key != Name::root()).then(|| ("is asked for DS records", zone.clone()))
    }

    fn plain(&self) -> impl Iterator<Item = (&Key, u16)> {
        self.keys.iter().filter_map(|key| match key.transport {
            Transport::Plain(port) => Some((key, port)),
            Transport::Other => None,
        })
    }
}
