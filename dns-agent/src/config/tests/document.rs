//! `docs/configuration.md` is generated from the declarations of settings and other arguments.

use std::{collections::BTreeSet, env, fmt::Write as _, fs};

use clap::{Arg, Command, CommandFactory as _};

use super::*;
use crate::config::{
    declaration::{
        SETTINGS, find_setting, is_in_group, is_list, meaning_and_default, needs, setting_name,
    },
    settings::CHECKED,
};

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");

/// If this environment variable is set, the test writes the document instead of comparing it.
const UPDATE: &str = "UPDATE_DOCS";

/// The command that generates the document.
const HOW_TO_UPDATE: &str = "UPDATE_DOCS=1 cargo test -p dns-agent --lib config";

/// Maximum length of a line of text, in bytes.
const COLUMNS: usize = 100;

const EXAMPLE: &str = "\
kubernetes: true
corefile: kube-system/coredns
interface: [pods, eth0=xdp]
allow: [10.0.0.0/8]
persist: true
max-age: 30m
admin: 0.0.0.0:9153
";

/// How values are written, by the placeholder of the value.
const NOTATIONS: [(&str, &str); 26] = [
    (
        "BYTES",
        "a number of bytes, perhaps with `Ki`, `Mi` or `Gi`: `16Mi`",
    ),
    ("CLASS[,CLASS]", "classes of queries: `denial,error`"),
    ("CIDR", "a network: `10.96.0.0/12`, `fd00::/64`"),
    ("DOMAIN", "a domain name: `cluster.local`"),
    (
        "DURATION",
        "numbers with a unit of `ms`, `s`, `m` or `h`: `1m30s`",
    ),
    ("FILE", "the path of a file"),
    ("IP", "an IPv4 or IPv6 address"),
    (
        "IP:PORT",
        "an address and a port: `127.0.0.1:9153`, `[::1]:9153`",
    ),
    (
        "IP[:PORT]",
        "the same, with port 53 if none is given: `10.96.0.10`, `[fd00::a]:5353`",
    ),
    (
        "LABEL,SERVER,NAME[,SECONDS][,TYPE]",
        "a probe: `coredns,10.96.0.10,kubernetes.default.svc.cluster.local,5,A`",
    ),
    ("N", "a number of queries, 1 or more"),
    ("NAME", "a domain name: `cluster.local`"),
    (
        "NAME[=HOOK]",
        "an interface and its hook: `pods`, `eth0=xdp`",
    ),
    ("NAMES", "a number of names, 1 or more"),
    ("NAMESPACE", "the name of a namespace"),
    (
        "NAMESPACE/NAME",
        "an object of the API: `kube-system/coredns`",
    ),
    ("NODE", "the name of a node"),
    (
        "ORDER",
        "`fastest`, `random`, `round_robin` or `sequential`",
    ),
    ("PATH", "the path of a file or directory"),
    ("QUERIES", "a number of queries per second"),
    ("SECONDS", "a number of seconds"),
    (
        "SELECTOR",
        "labels, as in `kubectl get --selector`: `app=web`, `app in (web,db)`",
    ),
    (
        "SERVER",
        "a DNS server, as `IP[:PORT]` or over TLS: `10.96.0.10`, `tls://192.0.2.53#dns.example`",
    ),
    ("TYPE", "a record type: `AAAA`, `TYPE65`"),
    (
        "ZONE=SERVERS",
        "a zone and its DNS servers, with commas between them: `corp.example=10.0.0.2,10.0.0.3`",
    ),
    ("unix:PATH", "a Unix socket: `unix:/run/dnstap.sock`"),
];

#[test]
fn the_document_is_generated_from_the_declaration() {
    let generated = document();
    if env::var_os(UPDATE).is_some() {
        fs::write(DOCUMENT, &generated).unwrap();
    }
    let committed = fs::read_to_string(DOCUMENT).unwrap_or_default();
    let mut lines = generated.lines().zip(committed.lines());
    let differs = lines.position(|(new, old)| new != old);
    assert!(
        generated == committed,
        "docs/configuration.md does not match the declarations in settings.rs and cli.rs (first \
         different line: {:?}, `None` if one text begins with the other): run `{HOW_TO_UPDATE}` \
         and commit the document",
        differs.map(|line| line + 1)
    );
}

#[test]
fn the_documents_example_is_valid() {
    Config::new(settings(EXAMPLE, &[])).unwrap();
}

#[test]
fn every_argument_is_documented() {
    for setting in SETTINGS.get_arguments() {
        let name = setting_name(setting);
        let heading = setting.get_help_heading();
        assert!(heading.is_some(), "--{name} has no heading");
    }
    let mut notations = BTreeSet::new();
    for command in Cli::command().get_subcommands() {
        for argument in command.get_arguments() {
            let (name, (text, _)) = (flag(argument), meaning_and_default(argument));
            let command = command.get_name();
            assert!(
                text.len() > 10,
                "{command} {name} has no or too short a text: {text:?}"
            );
            if argument.get_action().takes_values()
                && !is_switch(argument)
                && argument.get_possible_values().is_empty()
            {
                notations.insert(value_name(argument));
            }
        }
    }
    let explained = NOTATIONS.map(|(notation, _)| notation.to_owned());
    assert_eq!(
        notations,
        BTreeSet::from(explained),
        "left: the placeholders in the help texts; right: those that `NOTATIONS` explains"
    );
}

fn document() -> String {
    let mut text = format!(
        "<!-- Generated from the declarations in dns-agent/src/config, settings.rs and cli.rs:
{HOW_TO_UPDATE} -->

# Settings

`dns-agent run` and `dns-agent check` take these settings.
Each is a flag of the command line and a key of a configuration file, with the same name.
`--config FILE` names the file.
It is not a key itself, and neither are the other arguments
[below](#only-on-the-command-line).

| | command line | file |
|---|---|---|
| a value | `--ttl=30`, `--ttl 30` | `ttl: 30` |
| a list | `--serve=10.96.0.10 --serve=fd00::a` | `serve: [10.96.0.10, \"fd00::a\"]` |
| a switch, on | `--persist`, `--persist=true` | `persist: true` |
| a switch, off | `--persist=false` | `persist: false` |

* A flag replaces the value of the file.
  Flags of a list replace the whole list of the file.
* The file replaces the default.
* A key without a value (`node-name:`) and an empty list count as not given.
* An unknown key or an invalid value is an error, which names the line.
* The file is read once, at the start.

The file is YAML:

```yaml
{EXAMPLE}```

`dns-agent run --help` has the same texts as this document.

## Columns of the tables

* **value**: `list of` means several values.
  Values in capitals are explained [below](#values).
* **needs**: the setting is refused without one of these.
* **commands**: the commands in which the setting has an effect.
  `check` accepts all settings, so that it can check the command line of an installed agent.
"
    );
    for heading in headings() {
        let settings: Vec<_> = SETTINGS
            .get_arguments()
            .filter(|setting| setting.get_help_heading() == Some(heading))
            .collect();
        add_section(&mut text, heading, &settings);
    }
    add_notations(&mut text);
    add_other_arguments(&mut text);
    text
}

/// The headings in the order of the declaration.
fn headings() -> Vec<&'static str> {
    let mut headings = Vec::new();
    for heading in SETTINGS.get_arguments().filter_map(Arg::get_help_heading) {
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    headings
}

fn add_section(text: &mut String, heading: &str, settings: &[&Arg]) {
    *text += &format!(
        "\n## {heading}\n\n\
         | setting | value | default | needs | commands |\n|---|---|---|---|---|\n"
    );
    for setting in settings {
        let commands = if is_in_group(setting, CHECKED) {
            "`run`, `check`"
        } else {
            "`run`"
        };
        let needed = needs(setting).map(mark_flags).unwrap_or_default();
        add_line(
            text,
            &format!(
                "| `{}` | {} | {} | {needed} | {commands} |",
                setting_name(setting),
                value(setting),
                default(setting),
            ),
        );
    }
    *text += "\n";
    for setting in settings {
        add_meaning(text, setting_name(setting), setting);
    }
}

fn add_notations(text: &mut String) {
    *text += "\n## Values\n\n| value | how it is written |\n|---|---|\n";
    for (notation, written) in NOTATIONS {
        add_line(text, &format!("| `{notation}` | {written} |"));
    }
}

/// An argument that is not a setting, and the commands that have it.
struct CommandArgument {
    argument: Arg,
    commands: Vec<String>,
}

fn add_other_arguments(text: &mut String) {
    *text += "\n## Only on the command line\n\n\
              | argument | value | default | commands |\n|---|---|---|---|\n";
    let arguments = other_arguments();
    for CommandArgument { argument, commands } in &arguments {
        let commands: Vec<_> = commands.iter().map(|name| format!("`{name}`")).collect();
        let (name, value, default) = (flag(argument), value(argument), default(argument));
        let commands = commands.join(", ");
        add_line(
            text,
            &format!("| `{name}` | {value} | {default} | {commands} |"),
        );
    }
    *text += "\n";
    for CommandArgument { argument, .. } in &arguments {
        add_meaning(text, &flag(argument), argument);
    }
}

fn other_arguments() -> Vec<CommandArgument> {
    let mut found: Vec<CommandArgument> = Vec::new();
    for command in Cli::command().get_subcommands() {
        for argument in command
            .get_arguments()
            .filter(|it| !is_setting_of(command, it))
        {
            let same = |other: &&mut CommandArgument| {
                flag(&other.argument) == flag(argument)
                    && meaning_and_default(&other.argument) == meaning_and_default(argument)
            };
            let name = command.get_name().to_owned();
            match found.iter_mut().find(same) {
                Some(other) => other.commands.push(name),
                None => found.push(CommandArgument {
                    argument: argument.clone(),
                    commands: vec![name],
                }),
            }
        }
    }
    found
}

fn is_setting_of(command: &Command, argument: &Arg) -> bool {
    let takes_settings = ["run", "check"].contains(&command.get_name());
    takes_settings && argument.get_long().and_then(find_setting).is_some()
}

/// The argument as it is given: `--json`, `NAME`.
fn flag(argument: &Arg) -> String {
    match argument.get_long() {
        Some(long) => format!("--{long}"),
        None => value_name(argument),
    }
}

/// The table cell that says which values an argument has.
fn value(argument: &Arg) -> String {
    if is_switch(argument) {
        return "`true`, `false`".to_owned();
    }
    if !argument.get_action().takes_values() {
        return String::new();
    }
    let possible = argument.get_possible_values();
    if !possible.is_empty() {
        let names: Vec<_> = possible
            .iter()
            .map(|it| format!("`{}`", it.get_name()))
            .collect();
        return names.join(", ");
    }
    if is_list(argument) {
        format!("list of `{}`", value_name(argument))
    } else {
        format!("`{}`", value_name(argument))
    }
}

/// Whether the argument is a setting that is on or off. `declaration` gives these settings, and no
/// others, the default `false`.
fn is_switch(argument: &Arg) -> bool {
    argument.get_default_values() == ["false"]
}

fn value_name(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    names.first().map(ToString::to_string).unwrap_or_default()
}

/// The table cell with the default.
fn default(argument: &Arg) -> String {
    if let (_, Some(described)) = meaning_and_default(argument) {
        return mark_flags(&described);
    }
    let values = argument.get_default_values().iter();
    let values: Vec<_> = values.map(|it| format!("`{}`", it.display())).collect();
    values.join(", ")
}

/// Adds an item that explains an argument, one sentence a line.
fn add_meaning(text: &mut String, name: &str, argument: &Arg) {
    let (meaning, _) = meaning_and_default(argument);
    let meaning = format!("* **`{name}`**: {}.", meaning.trim_end_matches('.'));
    let sentences = mark_flags(&meaning).replace(". ", ".\n");
    for (number, sentence) in sentences.lines().enumerate() {
        // The space before the first word makes the indentation two columns.
        let mut line = if number == 0 {
            String::new()
        } else {
            " ".to_owned()
        };
        for word in sentence.split_whitespace() {
            if line.len() + 1 + word.len() > COLUMNS {
                add_line(text, &line);
                line = " ".to_owned();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        add_line(text, &line);
    }
}

fn add_line(text: &mut String, line: &str) {
    writeln!(text, "{line}").unwrap();
}

/// The text with its flags marked as code, except inside of code.
fn mark_flags(text: &str) -> String {
    let mut marked = String::new();
    for (number, part) in text.split('`').enumerate() {
        if number > 0 {
            marked.push('`');
        }
        let is_code = number % 2 == 1;
        if is_code {
            marked += part;
            continue;
        }
        let words: Vec<_> = part.split(char::is_whitespace).map(mark_flag).collect();
        marked += &words.join(" ");
    }
    marked
}

fn mark_flag(word: &str) -> String {
    if !word.starts_with("--") {
        return word.to_owned();
    }
    let is_flag = |letter: char| letter.is_ascii_alphanumeric() || "-=".contains(letter);
    let end = word.find(|letter| !is_flag(letter)).unwrap_or(word.len());
    format!("`{}`{}", &word[..end], &word[end..])
}
