//! The settings given on the command line and in the file, and how the two are combined.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
};

use clap::{ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};

use super::{
    declaration::{SETTINGS, add_flags, is_in_group, setting_name},
    settings::{RunSettings, WITH_KUBERNETES, WITHOUT_COREFILE},
};

/// The given values as texts, by the name of their setting.
#[derive(Clone, Debug, Default)]
pub struct GivenSettings(BTreeMap<&'static str, Vec<OsString>>);

impl GivenSettings {
    /// Adds the settings of `file` that `self` does not have. A list replaces the list of the file.
    pub(super) fn overlay(self, mut file: GivenSettings) -> GivenSettings {
        file.0.extend(self.0);
        file
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Sets the values of a setting that has none yet. With an empty list the setting counts as not
    /// given.
    pub(super) fn insert(&mut self, name: &'static str, values: Vec<OsString>) {
        if !values.is_empty() {
            self.0.insert(name, values);
        }
    }

    /// Parses the given values, and fills in the defaults.
    ///
    /// # Errors
    /// When a value is invalid.
    pub(super) fn parse(&self) -> Result<RunSettings, clap::Error> {
        let words = self
            .0
            .iter()
            .flat_map(|(name, values)| values.iter().map(|value| word(name, value)));
        let matches = SETTINGS.clone().try_get_matches_from(words)?;
        let mut settings = RunSettings::from_arg_matches(&matches)?;
        settings.first_with_kubernetes = first_given(&matches, WITH_KUBERNETES);
        settings.first_without_corefile = first_given(&matches, WITHOUT_COREFILE);
        Ok(settings)
    }
}

/// Takes the given values from a parsed command line.
impl FromArgMatches for GivenSettings {
    fn from_arg_matches(matches: &ArgMatches) -> Result<GivenSettings, clap::Error> {
        let mut given = GivenSettings::default();
        given.update_from_arg_matches(matches)?;
        Ok(given)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in SETTINGS.get_arguments() {
            let id = setting.get_id().as_str();
            if matches.value_source(id) == Some(ValueSource::CommandLine) {
                let values = matches.get_raw(id).into_iter().flatten();
                self.insert(setting_name(setting), values.map(OsStr::to_owned).collect());
            }
        }
        Ok(())
    }
}

impl Args for GivenSettings {
    fn augment_args(command: Command) -> Command {
        add_flags(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        add_flags(command)
    }
}

impl Default for RunSettings {
    fn default() -> RunSettings {
        let settings = GivenSettings::default().parse();
        settings.expect("no setting is required, and every default is valid")
    }
}

/// Checks one value of a setting.
///
/// # Errors
/// When the value is invalid. The text says why.
pub(super) fn check_value(name: &str, value: &str) -> Result<(), String> {
    let words = [word(name, OsStr::new(value))];
    match SETTINGS.clone().try_get_matches_from(words) {
        Ok(_) => Ok(()),
        Err(error) => Err(first_paragraph(&error.to_string())),
    }
}

/// The setting as one word of a command line: `--name=value`.
fn word(name: &str, value: &OsStr) -> OsString {
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

/// The first paragraph of clap's message, without the prefix. The advice that follows in clap's
/// message is only about command lines.
fn first_paragraph(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let paragraph = message.split("\n\n").next().unwrap_or_default();
    let lines: Vec<_> = paragraph.lines().map(str::trim).collect();
    lines.join(" ")
}

/// The first given setting of a group, in the order of the declaration. A switch that is off counts
/// as not given.
fn first_given(matches: &ArgMatches, group: &str) -> Option<&'static str> {
    let mut settings = SETTINGS.get_arguments();
    let first = settings.find(|setting| {
        let id = setting.get_id().as_str();
        // `parse` also passes the settings of the file as words of a command line.
        is_in_group(setting, group)
            && matches.value_source(id) == Some(ValueSource::CommandLine)
            && !matches!(matches.try_get_one::<bool>(id), Ok(Some(false)))
    })?;
    Some(setting_name(first))
}
