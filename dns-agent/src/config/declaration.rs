//! The settings as data. clap's derive reads the settings from the fields of [`RunSettings`].

use std::sync::LazyLock;

use clap::{Arg, ArgAction, ArgGroup, Args, Command, builder::BoolishValueParser};

use super::settings::{CHECKED, RunSettings, WITH_KUBERNETES, WITHOUT_COREFILE};

/// A clap command whose arguments are the settings, each in the form `--name=value`.
pub(super) static SETTINGS: LazyLock<Command> = LazyLock::new(|| {
    let command = Command::new("settings")
        .no_binary_name(true)
        .disable_help_flag(true)
        .groups(groups());
    let mut command = RunSettings::augment_args(command).mut_args(let_switches_be_turned_off);
    // Makes clap fill the groups with the settings that name them.
    command.build();
    command
});

/// The settings as flags of a command, with texts for its `--help`.
pub(super) fn add_flags(command: Command) -> Command {
    let flags = SETTINGS.get_arguments().map(|setting| {
        let help = help_text(setting);
        setting.clone().help(help)
    });
    command.groups(groups()).args(flags)
}

/// The setting with this current or former name.
pub(super) fn find_setting(name: &str) -> Option<&'static Arg> {
    SETTINGS.get_arguments().find(|setting| {
        let former = setting.get_all_aliases().unwrap_or_default();
        setting.get_long() == Some(name) || former.contains(&name)
    })
}

/// The name of a setting: the flag without its dashes, and the key of the file.
pub(super) fn setting_name(setting: &Arg) -> &str {
    setting.get_long().unwrap_or_default()
}

/// Whether the setting may have several values: a repeatable flag, or a list in the file.
pub(super) fn is_list(setting: &Arg) -> bool {
    matches!(setting.get_action(), ArgAction::Append)
}

/// Whether the setting is a member of this group.
pub(super) fn is_in_group(setting: &Arg, group: &str) -> bool {
    let mut groups = SETTINGS.get_groups();
    groups.any(|other| other.get_id() == group && other.get_args().any(|id| id == setting.get_id()))
}

/// The flags that the setting needs, as text. `None`: the setting needs no other flag.
pub(super) fn needs(setting: &Arg) -> Option<&'static str> {
    if is_in_group(setting, WITH_KUBERNETES) {
        Some("--kubernetes")
    } else if is_in_group(setting, WITHOUT_COREFILE) {
        Some("--manifests or --trust-zone")
    } else {
        None
    }
}

/// The doc comment of the setting's field without `[default: …]` at its end, and that default, if
/// the comment has one.
pub(super) fn meaning_and_default(setting: &Arg) -> (String, Option<String>) {
    let text = setting
        .get_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    match text.split_once(" [default: ") {
        Some((meaning, default)) => {
            let default = default.trim_end_matches(']').to_owned();
            (meaning.to_owned(), Some(default))
        }
        None => (text, None),
    }
}

fn groups() -> [ArgGroup; 3] {
    [WITH_KUBERNETES, WITHOUT_COREFILE, CHECKED].map(|group| ArgGroup::new(group).multiple(true))
}

/// Makes a switch accept `--switch=false`, because the file may have turned it on.
fn let_switches_be_turned_off(setting: Arg) -> Arg {
    if !matches!(setting.get_action(), ArgAction::SetTrue) {
        return setting;
    }
    setting
        .action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("BOOL")
        // YAML's spellings, such as true, yes and on, in any case.
        .value_parser(BoolishValueParser::new())
        .default_missing_value("true")
        .default_value("false")
        .hide_default_value(true)
        .hide_possible_values(true)
}

fn help_text(setting: &Arg) -> String {
    let (mut text, default) = meaning_and_default(setting);
    if is_list(setting) {
        text += ". Repeatable";
    }
    if let Some(needed) = needs(setting) {
        text = format!("{text}. Needs {needed}");
    }
    match default {
        Some(default) => format!("{text} [default: {default}]"),
        None => text,
    }
}
