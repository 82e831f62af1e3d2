//! From webhook payloads to events.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use gem_client::Message;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::DemoArgs;
use crate::exit::{Exit, Outcome};

/// Every repository's events are spread over so many keys, so that there are at least as many.
const FAN_OUT: u64 = 512;

/// The ways in which events are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Grpc,
    Rest,
    Python,
}

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Way::Grpc => "grpc",
            Way::Rest => "rest",
            Way::Python => "python",
        }
    }
}

/// One event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its place in the order in which events are made; its id ends with it.
    pub index: u32,
    pub id: String,
    pub key: Arc<str>,
    /// Its place among the events of its key, from 0.
    pub seq: u32,
    pub kind: Arc<str>,
    pub payload: Bytes,
    pub way: Way,
}

impl Event {
    /// The headers that travel with it.
    pub fn headers(&self) -> [(&'static str, String); 3] {
        [
            ("content-type", "application/json".to_owned()),
            ("x-github-event", self.kind.to_string()),
            ("demo-seq", self.seq.to_string()),
        ]
    }

    pub fn message(&self) -> Message {
        let message = Message::new(self.payload.clone()).id(self.id.clone()).key(self.key.to_string());
        self.headers().into_iter().fold(message, |message, (name, value)| message.header(name, value))
    }
}

/// All events of a run.
#[derive(Debug)]
pub struct Events {
    pub all: Vec<Event>,
    pub keys: usize,
    pub templates: usize,
}

impl Events {
    /// Those that are published in one way, in order.
    pub fn of(&self, way: Way) -> Vec<Event> {
        self.all.iter().filter(|event| event.way == way).cloned().collect()
    }

    /// The event with this id.
    pub fn find(&self, id: &str) -> Option<&Event> {
        let index: usize = id.rsplit('-').next()?.parse().ok()?;
        self.all.get(index).filter(|event| event.id == id)
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    event: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Payload {
    repository: Option<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: Option<String>,
}

struct Template {
    kind: Arc<str>,
    repository: String,
    payload: Bytes,
}

/// Reads the payloads and makes the events.
pub fn load(input: &Path, args: &DemoArgs) -> Outcome<Events> {
    let wrong = |why: String| Exit::failed(format!("demo: {}: {why}", input.display()));
    let text = std::fs::read_to_string(input).map_err(|error| wrong(format!("can't be read: {error}")))?;
    let mut templates = Vec::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let template = template(line).map_err(|error| wrong(format!("line {number} is not a JSON object: {error}")))?;
        templates.push(template);
    }
    if templates.is_empty() {
        return Err(wrong("holds no event".to_owned()));
    }
    Ok(make(&templates, args))
}

/// Any JSON object is taken: without a `payload` the line itself is it.
fn template(line: &str) -> serde_json::Result<Template> {
    let parsed: Line<'_> = serde_json::from_str(line)?;
    let payload = parsed.payload.map_or(line, RawValue::get);
    let repository = serde_json::from_str::<Payload>(payload).ok().and_then(|payload| payload.repository?.full_name);
    Ok(Template {
        kind: parsed.event.unwrap_or_else(|| "event".to_owned()).into(),
        repository: repository.unwrap_or_else(|| "no-repository".to_owned()),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
    })
}

fn make(templates: &[Template], args: &DemoArgs) -> Events {
    let ways: &[Way] = if args.without_python { &[Way::Grpc, Way::Rest] } else { &[Way::Grpc, Way::Rest, Way::Python] };
    let mut chance = Chance(args.seed.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut keys: BTreeMap<String, (Arc<str>, u32, Way)> = BTreeMap::new();
    let mut all = Vec::with_capacity(args.events as usize);
    for (index, template) in (0..args.events).zip(templates.iter().cycle()) {
        let key = format!("{}#{:03}", template.repository, chance.next() % FAN_OUT);
        let known = keys.len();
        // A key belongs to one publisher for good, and publishers take turns in adopting new keys.
        let (key, next, way) = keys.entry(key).or_insert_with_key(|key| {
            (key.as_str().into(), 0, ways.get(known % ways.len()).copied().unwrap_or(Way::Grpc))
        });
        let seq = *next;
        *next += 1;
        all.push(Event {
            index,
            id: format!("gh-{}-{index}", args.seed),
            key: key.clone(),
            seq,
            kind: template.kind.clone(),
            payload: template.payload.clone(),
            way: *way,
        });
    }
    Events { all, keys: keys.len(), templates: templates.len() }
}

/// SplitMix64 (Steele et al. 2014): the same seed draws the same keys on every machine.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
