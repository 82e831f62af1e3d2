//! `gem group`.

use clap::{Args, Subcommand};
use gem_client::{Group, Mode};
use serde_json::{Value, json};

use crate::cmd::ClientArgs;
use crate::cmd::topic::done;
use crate::exit::Outcome;
use crate::message_json::rfc3339;
use crate::output::{self, Table};

#[derive(Args)]
pub struct GroupArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// The topic's groups.
    List {
        topic: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// One group and its members.
    Show {
        topic: String,
        group: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Deletes a group and its progress.
    Delete {
        topic: String,
        group: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Moves a group; its leases end.
    Seek {
        topic: String,
        group: String,
        /// `earliest`, `latest`, an RFC 3339 time or `partition:offset`.
        #[arg(long, value_name = "P")]
        to: String,
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub async fn run(args: GroupArgs) -> Outcome {
    match args.verb {
        Verb::List { topic, client } => {
            let groups = client.client()?.groups(&topic).await?;
            if client.json {
                let groups: Vec<Value> = groups.iter().map(object).collect();
                return output::json(&json!({ "groups": groups }));
            }
            table(&groups).print()
        }
        Verb::Show { topic, group, client } => show(&client.client()?.group(&topic, &group).await?, &client),
        Verb::Delete { topic, group, client } => {
            client.client()?.delete_group(&topic, &group).await?;
            done(&client, &format!("group {group} of topic {topic} deleted"))
        }
        Verb::Seek { topic, group, to, client } => {
            show(&client.client()?.seek_group(&topic, &group, &to).await?, &client)
        }
    }
}

fn show(group: &Group, args: &ClientArgs) -> Outcome {
    if args.json {
        return output::json(&object(group));
    }
    table(std::slice::from_ref(group)).print()?;
    if group.members.is_empty() {
        return Ok(());
    }
    output::line("")?;
    let mut members = Table::new(&["member", "pending", "last seen"]);
    for member in &group.members {
        members.row(vec![member.consumer.clone(), member.pending.to_string(), rfc3339(member.last_seen_ms)]);
    }
    members.print()
}

fn table(groups: &[Group]) -> Table {
    let mut table = Table::new(&["group", "mode", "lag", "members", "pending", "redelivered", "dead-lettered"]);
    for group in groups {
        table.row(vec![
            group.group.clone(),
            mode(group.mode).to_owned(),
            group.lag.to_string(),
            group.members.len().to_string(),
            group.pending.to_string(),
            group.redelivered.to_string(),
            group.dead_lettered.to_string(),
        ]);
    }
    table
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Shared => "shared",
        Mode::Key => "key",
    }
}

/// The contract's group object.
fn object(group: &Group) -> Value {
    let members: Vec<Value> = group
        .members
        .iter()
        .map(|member| {
            json!({
                "consumer": member.consumer,
                "pending": member.pending,
                "last_seen": rfc3339(member.last_seen_ms),
            })
        })
        .collect();
    json!({
        "group": group.group,
        "mode": mode(group.mode),
        "lag": group.lag,
        "pending": group.pending,
        "redelivered": group.redelivered,
        "dead_lettered": group.dead_lettered,
        "members": members,
    })
}
