//! `gem topic`.

use clap::{Args, Subcommand, ValueEnum};
use gem_client::{Ordering, Topic, TopicConfig};
use serde_json::{Value, json};

use crate::cmd::ClientArgs;
use crate::exit::{Exit, Outcome};
use crate::output::{self, Table};
use crate::units;

#[derive(Args)]
pub struct TopicArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// All topics.
    List {
        /// Only those whose names begin with this.
        #[arg(long, default_value = "")]
        prefix: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Creates a topic.
    Create {
        name: String,
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// One topic.
    Show {
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Changes what is given.
    Alter {
        name: String,
        #[command(flatten)]
        config: ConfigArgs,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Deletes a topic, its groups and its messages.
    Delete {
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Forgets all messages of a topic; offsets go on.
    Purge {
        name: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum OrderingArg {
    Key,
    Total,
}

#[derive(Args)]
struct ConfigArgs {
    /// How long messages are kept, as 7d.
    #[arg(long, value_parser = units::duration_ms, value_name = "TIME")]
    retention: Option<u64>,
    /// The most bytes kept, as 10GiB; `none` takes the limit away.
    #[arg(long, value_parser = units::size_or_none, value_name = "SIZE")]
    retention_bytes: Option<units::SizeOrNone>,
    /// Deliveries after which a message becomes a dead letter.
    #[arg(long, value_name = "N")]
    max_deliveries: Option<u32>,
    /// How long a delivered message is leased, as 30s.
    #[arg(long, value_parser = units::duration_ms, value_name = "TIME")]
    ack_timeout: Option<u64>,
    /// How messages are ordered.
    #[arg(long)]
    ordering: Option<OrderingArg>,
    /// How long a message id is remembered, as 10m.
    #[arg(long, value_parser = units::duration_ms, value_name = "TIME")]
    dedup_window: Option<u64>,
}

impl From<ConfigArgs> for TopicConfig {
    fn from(args: ConfigArgs) -> TopicConfig {
        TopicConfig {
            retention_ms: args.retention,
            retention_bytes: args.retention_bytes.map(|size| size.0),
            max_deliveries: args.max_deliveries,
            ack_timeout_ms: args.ack_timeout,
            ordering: args.ordering.map(|ordering| match ordering {
                OrderingArg::Key => Ordering::Key,
                OrderingArg::Total => Ordering::Total,
            }),
            dedup_window_ms: args.dedup_window,
        }
    }
}

pub async fn run(args: TopicArgs) -> Outcome {
    match args.verb {
        Verb::List { prefix, client } => list(&prefix, &client).await,
        Verb::Create { name, config, client } => {
            let (topic, created) = client.client()?.create_topic(&name, config.into()).await?;
            if client.json {
                return output::json(&object(&topic));
            }
            let state = if created { "created" } else { "stands already, as asked for" };
            output::line(format_args!("topic {} {state}", topic.name))
        }
        Verb::Show { name, client } => show(&client.client()?.topic(&name).await?, &client),
        Verb::Alter { name, config, client } => {
            let config = TopicConfig::from(config);
            if config == TopicConfig::default() {
                return Err(Exit::usage("topic alter: nothing to change is given; see gem topic alter --help"));
            }
            show(&client.client()?.alter_topic(&name, config).await?, &client)
        }
        Verb::Delete { name, client } => {
            client.client()?.delete_topic(&name).await?;
            done(&client, &format!("topic {name} deleted"))
        }
        Verb::Purge { name, client } => {
            client.client()?.purge_topic(&name).await?;
            done(&client, &format!("topic {name} purged"))
        }
    }
}

/// Says that it is done; JSON has nothing to say.
pub(super) fn done(args: &ClientArgs, text: &str) -> Outcome {
    if args.json { output::json(&json!({})) } else { output::line(text) }
}

async fn list(prefix: &str, args: &ClientArgs) -> Outcome {
    let client = args.client()?;
    let mut topics = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let (page, next) = client.topics(prefix, 1000, cursor.as_deref()).await?;
        topics.extend(page);
        cursor = next;
        if cursor.is_none() {
            break;
        }
    }
    if args.json {
        let topics: Vec<Value> = topics.iter().map(object).collect();
        return output::json(&json!({ "topics": topics }));
    }
    let mut table = Table::new(&["name", "partitions", "messages", "bytes", "retention", "ordering"]);
    for topic in topics {
        table.row(vec![
            topic.name.clone(),
            topic.partitions.to_string(),
            topic.messages.to_string(),
            topic.bytes.to_string(),
            units::show_ms(topic.config.retention_ms.unwrap_or(0)),
            ordering(&topic).to_owned(),
        ]);
    }
    table.print()
}

fn show(topic: &Topic, args: &ClientArgs) -> Outcome {
    if args.json {
        return output::json(&object(topic));
    }
    let config = &topic.config;
    let mut table = Table::new(&["key", "value"]);
    let bytes = config.retention_bytes.flatten();
    let rows = [
        ("name", topic.name.clone()),
        ("partitions", topic.partitions.to_string()),
        ("messages", topic.messages.to_string()),
        ("bytes", topic.bytes.to_string()),
        ("retention", units::show_ms(config.retention_ms.unwrap_or(0))),
        ("retention_bytes", bytes.map_or_else(|| "none".to_owned(), |bytes| bytes.to_string())),
        ("max_deliveries", config.max_deliveries.unwrap_or(0).to_string()),
        ("ack_timeout", units::show_ms(config.ack_timeout_ms.unwrap_or(0))),
        ("ordering", ordering(topic).to_owned()),
        ("dedup_window", units::show_ms(config.dedup_window_ms.unwrap_or(0))),
    ];
    for (key, value) in rows {
        table.row(vec![key.to_owned(), value]);
    }
    table.print()
}

fn ordering(topic: &Topic) -> &'static str {
    match topic.config.ordering {
        Some(Ordering::Total) => "total",
        _ => "key",
    }
}

/// The contract's topic object.
fn object(topic: &Topic) -> Value {
    json!({
        "name": topic.name,
        "partitions": topic.partitions,
        "messages": topic.messages,
        "bytes": topic.bytes,
        "retention_ms": topic.config.retention_ms,
        "retention_bytes": topic.config.retention_bytes.flatten(),
        "max_deliveries": topic.config.max_deliveries,
        "ack_timeout_ms": topic.config.ack_timeout_ms,
        "ordering": ordering(topic),
        "dedup_window_ms": topic.config.dedup_window_ms,
    })
}
