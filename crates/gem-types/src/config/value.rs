//! The kinds of values that keys take: how each is read, written and bounded.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::units::{format_duration, format_size, parse_duration, parse_share, parse_size};

/// How much memory a node may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// So many bytes.
    Size(u64),
    /// So many per cent of the machine's (or the container's) memory.
    Share(u8),
}

impl Memory {
    /// The bytes that are meant on a machine with `total` bytes of memory.
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Memory::Size(bytes) => bytes,
            Memory::Share(share) => total / 100 * u64::from(share),
        }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// What values a key takes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Path,
    /// Empty means: not given.
    OptionalPath,
    /// Text without control characters; at most so many bytes. Empty means: not given.
    Name(usize),
    Address,
    /// Empty means: not given.
    OptionalAddress,
    /// Addresses, with commas between them; at most so many.
    Addresses(usize),
    Switch,
    LogFormat,
    /// A number, from … to.
    Count(u64, u64),
    /// Bytes, from … to.
    Size(u64, u64),
    /// Bytes from … to, or a share from … to.
    Memory(u64, u64, u8, u8),
    /// A time, from … to.
    Time(Duration, Duration),
}

/// A value of some key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Path(PathBuf),
    OptionalPath(Option<PathBuf>),
    Name(String),
    Address(SocketAddr),
    OptionalAddress(Option<SocketAddr>),
    Addresses(Vec<SocketAddr>),
    Switch(bool),
    LogFormat(LogFormat),
    Number(u64),
    Size(u64),
    Memory(Memory),
    Time(Duration),
}

fn read_path(text: &str) -> Option<PathBuf> {
    (!text.is_empty() && !text.contains('\0')).then(|| text.into())
}

fn read_address(text: &str) -> Option<SocketAddr> {
    // Names need a resolver; this one never changes its meaning.
    text.trim().replace("localhost:", "127.0.0.1:").parse().ok()
}

impl Kind {
    /// Reads `text`; `None` where it is no such value or out of range.
    pub fn read(&self, text: &str) -> Option<Value> {
        let text = text.trim();
        match *self {
            Kind::Path => read_path(text).map(Value::Path),
            Kind::OptionalPath if text.is_empty() => Some(Value::OptionalPath(None)),
            Kind::OptionalPath => read_path(text).map(|path| Value::OptionalPath(Some(path))),
            Kind::Name(most) => {
                let fits = text.len() <= most && !text.chars().any(char::is_control);
                fits.then(|| Value::Name(text.into()))
            }
            Kind::Address => read_address(text).map(Value::Address),
            Kind::OptionalAddress if text.is_empty() => Some(Value::OptionalAddress(None)),
            Kind::OptionalAddress => read_address(text).map(|address| Value::OptionalAddress(Some(address))),
            Kind::Addresses(_) if text.is_empty() => Some(Value::Addresses(Vec::new())),
            Kind::Addresses(most) => {
                let addresses = text.split(',').map(|part| read_address(part).filter(|address| address.port() != 0));
                let addresses = addresses.collect::<Option<Vec<_>>>()?;
                (addresses.len() <= most).then_some(Value::Addresses(addresses))
            }
            Kind::Switch => match text {
                "true" => Some(Value::Switch(true)),
                "false" => Some(Value::Switch(false)),
                _ => None,
            },
            Kind::LogFormat => match text {
                "text" => Some(Value::LogFormat(LogFormat::Text)),
                "json" => Some(Value::LogFormat(LogFormat::Json)),
                _ => None,
            },
            Kind::Count(from, to) => text.parse().ok().filter(|number| (from..=to).contains(number)).map(Value::Number),
            Kind::Size(from, to) => parse_size(text).ok().filter(|bytes| (from..=to).contains(bytes)).map(Value::Size),
            Kind::Memory(from, to, least, most) => match parse_share(text) {
                Some(share) => (least..=most).contains(&share).then_some(Value::Memory(Memory::Share(share))),
                None => {
                    let bytes = parse_size(text).ok().filter(|bytes| (from..=to).contains(bytes))?;
                    Some(Value::Memory(Memory::Size(bytes)))
                }
            },
            Kind::Time(from, to) => {
                parse_duration(text).ok().filter(|time| (from..=to).contains(time)).map(Value::Time)
            }
        }
    }

    /// What is allowed, for errors and documentation.
    pub fn allowed(&self) -> String {
        match *self {
            Kind::Path => "a path".into(),
            Kind::OptionalPath => "a path, or nothing".into(),
            Kind::OptionalAddress => "an IP address and a port, like 10.0.0.1:7402, or nothing".into(),
            Kind::Addresses(most) => format!(
                "IP addresses with their ports and commas between, like 10.0.0.1:7401,10.0.0.2:7401; at most {most}"
            ),
            Kind::Name(most) => format!("text of at most {most} bytes, or nothing"),
            Kind::Address => {
                "an IP address and a port, like 127.0.0.1:7400 or [::1]:7400; port 0 takes any free one".into()
            }
            Kind::Switch => "true or false".into(),
            Kind::LogFormat => "text or json".into(),
            Kind::Count(from, to) => format!("{from} to {to}"),
            Kind::Size(from, to) => format!("{} to {}", format_size(from), format_size(to)),
            Kind::Memory(from, to, least, most) => {
                format!("{} to {}, or {least}% to {most}% of the memory", format_size(from), format_size(to))
            }
            Kind::Time(from, to) => format!("{} to {}", format_duration(from), format_duration(to)),
        }
    }

    /// Whether such a value may be a list in TOML.
    pub fn is_list(&self) -> bool {
        matches!(self, Kind::Addresses(_))
    }

    /// Whether TOML needs quotes around such a value.
    pub fn is_quoted(&self) -> bool {
        !matches!(self, Kind::Switch | Kind::Count(..))
    }
}

impl Value {
    /// The value as it is written in `gem.toml`, without quotes.
    pub fn text(&self) -> String {
        match self {
            Value::Path(path) => path.display().to_string(),
            Value::OptionalPath(path) => path.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            Value::Name(name) => name.clone(),
            Value::Address(address) => address.to_string(),
            Value::OptionalAddress(address) => address.map(|address| address.to_string()).unwrap_or_default(),
            Value::Addresses(addresses) => addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(","),
            Value::Switch(on) => on.to_string(),
            Value::LogFormat(LogFormat::Text) => "text".into(),
            Value::LogFormat(LogFormat::Json) => "json".into(),
            Value::Number(number) => number.to_string(),
            Value::Size(bytes) | Value::Memory(Memory::Size(bytes)) => format_size(*bytes),
            Value::Memory(Memory::Share(share)) => format!("{share}%"),
            Value::Time(time) => format_duration(*time),
        }
    }
}

/// A field's type, out of a value. `None` would be a key whose kind and field disagree, which the
/// table's test rules out.
pub(super) trait FromValue: Sized {
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $pattern:pat => $out:expr;)*) => {
        $(impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    $pattern => $out,
                    _ => None,
                }
            }
        })*
    };
}

from_value! {
    PathBuf: Value::Path(path) => Some(path.clone());
    Option<String>: Value::Name(name) => Some((!name.is_empty()).then(|| name.clone()));
    Option<PathBuf>: Value::OptionalPath(path) => Some(path.clone());
    SocketAddr: Value::Address(address) => Some(*address);
    Option<SocketAddr>: Value::OptionalAddress(address) => Some(*address);
    Vec<SocketAddr>: Value::Addresses(addresses) => Some(addresses.clone());
    bool: Value::Switch(on) => Some(*on);
    LogFormat: Value::LogFormat(format) => Some(*format);
    Memory: Value::Memory(memory) => Some(*memory);
    Duration: Value::Time(time) => Some(*time);
    u64: Value::Number(number) | Value::Size(number) => Some(*number);
    usize: Value::Number(number) | Value::Size(number) => usize::try_from(*number).ok();
    u32: Value::Number(number) => u32::try_from(*number).ok();
    u8: Value::Number(number) => u8::try_from(*number).ok();
}
