//! The configuration file: a YAML mapping of settings to their values.

use std::{ffi::OsString, fmt, path::Path};

use anyhow::Context;
use clap::Arg;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use zerohop_sources::files;

use super::{
    declaration::{SETTINGS, find_setting, is_list, setting_name},
    given::{GivenSettings, check_value},
};

/// Reads the settings of a configuration file.
///
/// # Errors
/// When the file can't be read, isn't YAML, or has an unknown key, a repeated key or an invalid
/// value. An error in the text names its line.
pub(super) fn read(path: &Path) -> anyhow::Result<GivenSettings> {
    let text = files::read_text(path, files::MAX_SETTINGS)
        .with_context(|| format!("can't read the configuration file {}", path.display()))?;
    parse(&text).with_context(|| format!("in the configuration file {}", path.display()))
}

pub(super) fn parse(text: &str) -> anyhow::Result<GivenSettings> {
    serde_saphyr::from_str(text).map_err(|error| anyhow::anyhow!("{}", error.without_snippet()))
}

impl<'de> Deserialize<'de> for GivenSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<GivenSettings, D::Error> {
        // An empty file is null.
        deserializer.deserialize_option(FileVisitor)
    }
}

struct FileVisitor;

impl<'de> Visitor<'de> for FileVisitor {
    type Value = GivenSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of settings to their values")
    }

    fn visit_none<E>(self) -> Result<GivenSettings, E> {
        Ok(GivenSettings::default())
    }

    fn visit_unit<E>(self) -> Result<GivenSettings, E> {
        Ok(GivenSettings::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, file: D) -> Result<GivenSettings, D::Error> {
        file.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut file: A) -> Result<GivenSettings, A::Error> {
        let mut given = GivenSettings::default();
        while let Some(setting) = file.next_key_seed(SettingKey { before: &given })? {
            let values = file.next_value_seed(SettingValues { setting })?;
            given.insert(setting_name(setting), values);
        }
        Ok(given)
    }
}

/// Reads a key of the file.
struct SettingKey<'a> {
    /// The settings before this key, which must not be repeated.
    before: &'a GivenSettings,
}

impl<'de> DeserializeSeed<'de> for SettingKey<'_> {
    type Value = &'static Arg;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<&'static Arg, D::Error> {
        let key = String::deserialize(key)?;
        let Some(setting) = find_setting(&key) else {
            let known: Vec<_> = SETTINGS.get_arguments().map(setting_name).collect();
            let known = known.join(", ");
            return Err(D::Error::custom(format!(
                "{key:?} is not a setting: give one of {known}"
            )));
        };
        let name = setting_name(setting);
        if self.before.contains(name) {
            return Err(D::Error::custom(format!(
                "{name} is given twice: give it once, and several values as a list"
            )));
        }
        Ok(setting)
    }
}

/// Reads the value or the list of values of a setting. Null and an empty list mean that the setting
/// is not given.
struct SettingValues {
    setting: &'static Arg,
}

impl<'de> DeserializeSeed<'de> for SettingValues {
    type Value = Vec<OsString>;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<Vec<OsString>, D::Error> {
        value.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for SettingValues {
    type Value = Vec<OsString>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if is_list(self.setting) {
            "a list"
        } else {
            "one value"
        })
    }

    fn visit_none<E>(self) -> Result<Vec<OsString>, E> {
        Ok(Vec::new())
    }

    fn visit_unit<E>(self) -> Result<Vec<OsString>, E> {
        Ok(Vec::new())
    }

    fn visit_some<D: Deserializer<'de>>(self, value: D) -> Result<Vec<OsString>, D::Error> {
        if is_list(self.setting) {
            return value.deserialize_seq(self);
        }
        let setting = self.setting;
        Ok(vec![SettingValue { setting }.deserialize(value)?])
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<OsString>, A::Error> {
        let mut values = Vec::new();
        let setting = self.setting;
        while let Some(value) = list.next_element_seed(SettingValue { setting })? {
            values.push(value);
        }
        Ok(values)
    }
}

/// Reads one value of a setting as text, even if YAML takes it for a number or a boolean.
struct SettingValue {
    setting: &'static Arg,
}

impl<'de> DeserializeSeed<'de> for SettingValue {
    type Value = OsString;

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<OsString, D::Error> {
        let text = String::deserialize(value)?;
        check_value(setting_name(self.setting), &text).map_err(D::Error::custom)?;
        Ok(text.into())
    }
}
