//! The configuration of a node: every key, where its value came from, and what it means.
//!
//! What it is: a table of keys ([`KEYS`]) and a function from what was given (flags, variables,
//! the text of `gem.toml`) to a [`Config`]. A flag goes before a variable, a variable before the
//! file, the file before the default.
//!
//! What it is not: it reads no file, no environment and no command line, and knows nothing of
//! topics, whose settings are data of the mesh.
//!
//! Invariants: a key is documented, checked and shown from one entry of the table; a value that
//! is not understood stops the start, and never falls back to a default.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

mod keys;
mod units;
mod value;

pub use keys::{KEYS, Key, Settings};
pub use units::{format_duration, format_size, parse_duration, parse_share, parse_size};
pub use value::{LogFormat, Memory};

use crate::limits::Limits;
use value::Value;

/// Variables that begin as keys do and are none: the clients' and the command line's own.
const OTHER_VARIABLES: [&str; 3] = ["GEM_URL", "GEM_SECRET", "GEM_CONFIG"];

/// Where a value came from, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// A `GEM_*` variable.
    Variable,
    /// `gem.toml`.
    File,
    /// Nobody gave one.
    Default,
}

impl Source {
    /// The name of `key` as it is written in this place.
    fn spell(self, key: &str) -> String {
        match self {
            Source::Flag => format!("--{}", key.replace('_', "-")),
            Source::Variable => format!("GEM_{}", key.to_ascii_uppercase()),
            Source::File | Source::Default => key.to_owned(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Flag => "flag",
            Source::Variable => "environment",
            Source::File => "gem.toml",
            Source::Default => "default",
        })
    }
}

/// Why a node doesn't start with what it was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A key that does not exist.
    #[error("{place}: {key} is not a key (its value is {value:?}); the keys are {}", names())]
    Unknown {
        /// Where it was given.
        place: Source,
        /// As it was written.
        key: String,
        /// What was given for it.
        value: String,
    },
    /// A value that is not understood or out of range, by itself or beside another key's.
    #[error("{place}: {key} = {value:?} is not allowed; allowed is {allowed}")]
    NotAllowed {
        /// Where it was given.
        place: Source,
        /// As it was written.
        key: String,
        /// What was given for it.
        value: String,
        /// The allowed range, in words.
        allowed: String,
    },
    /// `gem.toml` is not TOML.
    #[error("gem.toml can't be read: {0}")]
    Syntax(String),
}

impl From<ConfigError> for crate::Error {
    fn from(error: ConfigError) -> Self {
        crate::Error::invalid(error.to_string())
    }
}

fn names() -> String {
    KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

/// What was given from outside, not yet understood.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The long flags that were given, without the leading dashes; a switch has the value `true`.
    pub flags: BTreeMap<String, String>,
    /// The environment; only names that begin with `GEM_` are looked at.
    pub variables: BTreeMap<String, String>,
    /// The text of `gem.toml`.
    pub file: Option<String>,
}

/// A line of what `gem config` shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The key's name.
    pub key: &'static str,
    /// Its value, as `gem.toml` has it.
    pub value: String,
    /// Where the value came from.
    pub source: Source,
    /// What the key is for.
    pub doc: &'static str,
}

/// The effective configuration of a node. Reads as its [`Settings`].
#[derive(Clone, Debug)]
pub struct Config {
    settings: Settings,
    /// By the key's name.
    values: BTreeMap<&'static str, (Value, Source)>,
    unknown_variables: Vec<String>,
}

impl std::ops::Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl Default for Config {
    fn default() -> Self {
        // The defaults are constants of the table, and a test resolves them.
        Config::resolve(&Given::default()).expect("the defaults are allowed")
    }
}

impl Config {
    /// The configuration that follows from what was given. The first thing that is wrong is the
    /// error, and names the key, the value and what is allowed.
    pub fn resolve(given: &Given) -> Result<Config, ConfigError> {
        let mut values = BTreeMap::new();
        for key in KEYS {
            if let Some(value) = key.kind.read(key.default) {
                values.insert(key.name, (value, Source::Default));
            }
        }
        // The weakest first, so that the stronger replaces it.
        for (name, text) in read_file(given.file.as_deref().unwrap_or_default())? {
            set(&mut values, Source::File, &name, &text)?;
        }
        let mut unknown_variables = Vec::new();
        for (variable, text) in &given.variables {
            let Some(name) = variable.strip_prefix("GEM_") else { continue };
            // Orchestrators make variables of their own for a service that is called gem.
            match set(&mut values, Source::Variable, &name.to_ascii_lowercase(), text) {
                Err(ConfigError::Unknown { .. }) if OTHER_VARIABLES.contains(&variable.as_str()) => {}
                Err(ConfigError::Unknown { .. }) => unknown_variables.push(variable.clone()),
                other => other?,
            }
        }
        for (flag, text) in &given.flags {
            set(&mut values, Source::Flag, &flag.replace('-', "_"), text)?;
        }
        let settings = Settings::collect(|name| Some(values.get(name)?.0.clone()));
        let settings = settings.map_err(|key| ConfigError::NotAllowed {
            place: Source::Default,
            key: key.into(),
            value: values.get(key).map(|(value, _)| value.text()).unwrap_or_default(),
            allowed: "what this machine can address".into(),
        })?;
        let config = Config { settings, values, unknown_variables };
        config.check_relations()?;
        Ok(config)
    }

    /// What keys demand of each other.
    fn check_relations(&self) -> Result<(), ConfigError> {
        let beside = |key: &str, allowed: String| {
            let (value, place) = self.values.get(key).map_or((String::new(), Source::Default), |(v, s)| (v.text(), *s));
            Err(ConfigError::NotAllowed { place, key: place.spell(key), value, allowed })
        };
        if !self.listen.ip().is_loopback() && !self.insecure {
            let allowed = "a loopback address, or any together with insecure: there is no encryption and no login yet";
            return beside("listen", allowed.into());
        }
        if self.mesh_bulk.is_none() && self.mesh.port() == u16::MAX {
            return beside("mesh", "a port below 65535, unless mesh_bulk is given: it takes the port after".into());
        }
        // A default that is in the way gives way; what was asked for does not.
        if self.is_given("mesh") && same(self.mesh, self.listen) {
            return beside("mesh", "an address other than listen's".into());
        }
        if self.mesh_bulk.is_some_and(|bulk| same(bulk, self.mesh) || same(bulk, self.listen)) {
            return beside("mesh_bulk", "an address other than those of mesh and listen".into());
        }
        let least = 2 * self.max_batch as u64;
        if self.journal_file_size < least {
            return beside("journal_file_size", format!("at least {}: twice max_batch", format_size(least)));
        }
        let least = 4 * self.journal_file_size;
        if self.journal_limit < least {
            return beside("journal_limit", format!("at least {}: four times journal_file_size", format_size(least)));
        }
        Ok(())
    }

    /// Whether `key` was given, by a flag, a variable or the file: its value is no default.
    pub fn is_given(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|(_, source)| *source != Source::Default)
    }

    /// Where bulk links listen: `mesh_bulk`, or the port after `mesh`'s; any free one where that
    /// takes any.
    pub fn mesh_bulk_address(&self) -> SocketAddr {
        let next = match self.mesh.port() {
            0 => 0,
            // The relations of keys rule the last port out.
            port => port.saturating_add(1),
        };
        self.mesh_bulk.unwrap_or(SocketAddr::new(self.mesh.ip(), next))
    }

    /// The limits on what clients send.
    pub fn limits(&self) -> Limits {
        Limits {
            max_message: self.max_message.min(self.max_batch),
            max_batch: self.max_batch,
            max_headers: self.max_headers,
            max_key: self.max_key,
            max_id: self.max_id,
        }
    }

    /// Variables that begin with `GEM_` and mean nothing: worth a warning, since one may be a
    /// misspelt key.
    pub fn unknown_variables(&self) -> &[String] {
        &self.unknown_variables
    }

    /// Every key with its value and where that came from, in the table's order.
    pub fn effective_table(&self) -> Vec<Effective> {
        let line = |key: &'static Key| {
            let (value, source) = self.values.get(key.name)?;
            Some(Effective { key: key.name, value: value.text(), source: *source, doc: key.purpose })
        };
        KEYS.iter().filter_map(line).collect()
    }

    /// A `gem.toml` in which every key stands with its documentation and its default, commented
    /// out.
    pub fn documented_toml() -> String {
        let mut out = String::from(
            "# Configuration of a GEM node. A flag (--max-batch) goes before a variable (GEM_MAX_BATCH), a variable\n\
             # before this file, this file before the default. Sizes: 512MiB; times: 500ms, 30s, 10m, 1h, 7d; shares: 80%.\n",
        );
        for key in KEYS {
            out.push('\n');
            for sentence in [key.purpose, key.relation, key.choose] {
                wrap(&mut out, sentence);
            }
            wrap(&mut out, &format!("Allowed: {}.", key.allowed()));
            let quote = if key.kind.is_quoted() { "\"" } else { "" };
            out.push_str(&format!("# {} = {quote}{}{quote}\n", key.name, key.default));
        }
        out
    }
}

fn set(
    values: &mut BTreeMap<&'static str, (Value, Source)>,
    place: Source,
    name: &str,
    text: &str,
) -> Result<(), ConfigError> {
    let written = || (place.spell(name), text.to_owned());
    let Some(key) = KEYS.iter().find(|key| key.name == name) else {
        let (key, value) = written();
        return Err(ConfigError::Unknown { place, key, value });
    };
    let Some(value) = key.kind.read(text) else {
        let (name, value) = written();
        return Err(ConfigError::NotAllowed { place, key: name, value, allowed: key.allowed() });
    };
    values.insert(key.name, (value, place));
    Ok(())
}

/// Whether two addresses to listen on are one; port 0 is a different one each time.
fn same(one: SocketAddr, other: SocketAddr) -> bool {
    one == other && one.port() != 0
}

/// The keys and values of `gem.toml`, values as text.
fn read_file(text: &str) -> Result<Vec<(String, String)>, ConfigError> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax(error.to_string()))?;
    Ok(table
        .into_iter()
        .map(|(name, value)| {
            let is_list = KEYS.iter().any(|key| key.name == name && key.kind.is_list());
            let list = if is_list { joined(&value) } else { None };
            let text = list.or_else(|| value.as_str().map(str::to_owned)).unwrap_or_else(|| value.to_string());
            (name, text)
        })
        .collect())
}

/// A list of strings with commas between them.
fn joined(value: &toml::Value) -> Option<String> {
    let parts = value.as_array()?.iter().map(toml::Value::as_str).collect::<Option<Vec<_>>>()?;
    Some(parts.join(","))
}

/// Appends `text` as comment lines of at most 100 characters.
fn wrap(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        if width == 0 || width + 1 + word.len() > 98 {
            out.push_str(if width == 0 { "# " } else { "\n# " });
            width = 0;
        } else {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += word.len();
    }
    if width > 0 {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests;
