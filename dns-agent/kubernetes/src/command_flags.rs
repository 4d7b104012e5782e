//! A command's flags, in the notation of Go's package `flag`.

use std::collections::BTreeMap;

/// The flags of node-cache and of CoreDNS whose value may be the next word.
const WITH_VALUE: [&str; 13] = [
    "localip",
    "interfacename",
    "syncinterval",
    "metrics-listen-address",
    "basecorefile",
    "corefile",
    "kubednscm",
    "upstreamsvc",
    "health-port",
    "conf",
    "dns.port",
    "pidfile",
    "p",
];

/// Flags by name, without dashes. `None`: the flag has no value.
pub(crate) struct CommandFlags<'a>(BTreeMap<&'a str, Option<&'a str>>);

impl<'a> CommandFlags<'a> {
    /// Reads a command and its arguments. Words that aren't flags, such as the program, are
    /// skipped. (Go ignores all flags after an argument that isn't a flag. The programs read here
    /// take no such arguments.) If a flag is repeated, the last one counts.
    pub(crate) fn read(words: &[&'a str]) -> CommandFlags<'a> {
        let mut flags = BTreeMap::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix('-') else {
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None if WITH_VALUE.contains(&flag) => (flag, words.next().copied()),
                None => (flag, None),
            };
            flags.insert(name, value);
        }
        CommandFlags(flags)
    }

    /// A flag's value, if it has one.
    pub(crate) fn value(&self, name: &str) -> Option<&'a str> {
        *self.0.get(name)?
    }

    /// Whether a boolean flag is set, as Go's `strconv.ParseBool` reads it.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        let is_true = |text: &str| matches!(text, "1" | "t" | "T" | "TRUE" | "true" | "True");
        let flag = self.0.get(name);
        flag.is_some_and(|value| value.is_none_or(is_true))
    }
}
