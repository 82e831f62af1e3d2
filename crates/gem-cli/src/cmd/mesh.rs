//! `gem mesh`: what a person asks during an incident.

use clap::{Args, Subcommand};
use gem_client::{Mesh, Node, NodeState, Shard, ShardHealth};
use gem_types::config::format_size;
use serde_json::{Value, json};

use crate::cmd::ClientArgs;
use crate::cmd::topic::done;
use crate::exit::Outcome;
use crate::output::{self, Table};
use crate::units;

#[derive(Args)]
pub struct MeshArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Whether data is at risk, what the mesh does about it, and what you can do.
    Status {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// All nodes.
    Nodes {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// All shards, with their replicas: the leader's marked with *, a dead node's with !, one that
    /// does not vote in brackets.
    Shards {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Empties a node, so that it can be stopped without loss: it gives away leaderships and replicas.
    Drain {
        /// A node's id, the beginning of one, or its name.
        node: String,
        /// Ends the draining.
        #[arg(long)]
        cancel: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Takes a node that is gone for good out of the mesh; its replicas are replaced at once.
    Remove {
        /// A node's id, the beginning of one, or its name.
        node: String,
        /// Goes on even where a shard's only voter, and with it data, is lost.
        #[arg(long)]
        accept_data_loss: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

pub async fn run(args: MeshArgs) -> Outcome {
    match args.verb {
        Verb::Status { client } => status(&client).await,
        Verb::Nodes { client } => {
            let nodes = client.client()?.nodes().await?;
            if client.json {
                let nodes: Vec<Value> = nodes.iter().map(node_object).collect();
                return output::json(&json!({ "nodes": nodes }));
            }
            all_of(&nodes).print()
        }
        Verb::Shards { client } => shards(&client).await,
        Verb::Drain { node, cancel, client } => {
            let node = client.client()?.drain_node(&node, cancel).await?;
            if client.json {
                return output::json(&node_object(&node));
            }
            let node = call(&node);
            output::line(match cancel {
                true => format!("node {node} is no longer drained"),
                false => {
                    format!("node {node} is being drained: it is empty once gem mesh nodes shows no replicas for it")
                }
            })
        }
        Verb::Remove { node, accept_data_loss, client } => {
            client.client()?.remove_node(&node, accept_data_loss).await?;
            done(&client, &format!("node {node} removed: its replicas are being replaced"))
        }
    }
}

async fn status(args: &ClientArgs) -> Outcome {
    let client = args.client()?;
    let mesh = client.mesh().await?;
    if args.json {
        return output::json(&mesh_object(&mesh));
    }
    let nodes = client.nodes().await?;
    output::line(headline(&mesh))?;
    output::line(counts(&mesh))?;
    for advice in &mesh.advice {
        output::line(format_args!("- {advice}"))?;
    }
    output::line("")?;
    at_a_glance(&nodes).print()
}

async fn shards(args: &ClientArgs) -> Outcome {
    let client = args.client()?;
    let shards = client.shards().await?;
    if args.json {
        let shards: Vec<Value> = shards.iter().map(shard_object).collect();
        return output::json(&json!({ "shards": shards }));
    }
    let nodes = client.nodes().await?;
    let mut table = Table::new(&["shard", "health", "leader", "term", "replicas", "doing"]);
    for shard in &shards {
        let leader = shard.leader.as_deref().map_or_else(|| "-".to_owned(), |id| named(&nodes, id));
        table.row(vec![
            prefix(&shard.prefix),
            health(shard.health).to_owned(),
            leader,
            shard.term.to_string(),
            replicas(shard, &nodes),
            shard.doing.clone(),
        ]);
    }
    table.print()
}

/// The first line: red where something does not serve, yellow where something is missing.
fn headline(mesh: &Mesh) -> String {
    let colour = match mesh {
        _ if !output::in_colour() => return mesh.summary.clone(),
        Mesh { unavailable: 1.., .. } => "31",
        Mesh { at_risk: 1.., .. } | Mesh { under_replicated: 1.., .. } => "33",
        _ => "32",
    };
    format!("\x1b[1;{colour}m{}\x1b[0m", mesh.summary)
}

fn counts(mesh: &Mesh) -> String {
    let mut text = format!(
        "{} of {} nodes alive, {} of {} shards healthy",
        mesh.nodes_alive, mesh.nodes, mesh.healthy, mesh.shards
    );
    let kinds =
        [(mesh.under_replicated, "under-replicated"), (mesh.at_risk, "at risk"), (mesh.unavailable, "unavailable")];
    for (count, kind) in kinds.into_iter().filter(|(count, _)| *count > 0) {
        text += &format!(", {count} {kind}");
    }
    text + &format!("; {} replicas a shard", mesh.replicas)
}

fn at_a_glance(nodes: &[Node]) -> Table {
    let mut table = Table::new(&["node", "state", "replicas", "leads", "cpu", "disk free", "url"]);
    for node in nodes {
        table.row(vec![
            call(node),
            standing(node),
            node.replicas.to_string(),
            node.leaders.to_string(),
            percent(node.cpu),
            disk_free(node),
            node.http.clone(),
        ]);
    }
    table
}

fn all_of(nodes: &[Node]) -> Table {
    let head =
        ["node", "name", "zone", "state", "replicas", "leads", "cpu", "memory", "disk", "disk free", "url", "mesh"];
    let mut table = Table::new(&head);
    for node in nodes {
        table.row(vec![
            node.node.clone(),
            or_dash(&node.name),
            or_dash(&node.zone),
            standing(node),
            node.replicas.to_string(),
            node.leaders.to_string(),
            percent(node.cpu),
            format!("{}/{}", about(node.memory_bytes), about(node.memory_limit)),
            about(node.disk_bytes),
            disk_free(node),
            node.http.clone(),
            node.mesh.clone(),
        ]);
    }
    table
}

/// What people call it: its name, else its id.
fn call(node: &Node) -> String {
    let name = if node.name.is_empty() { &node.node } else { &node.name };
    if node.is_me { format!("{name} (asked)") } else { name.clone() }
}

fn named(nodes: &[Node], id: &str) -> String {
    let node = nodes.iter().find(|node| node.node == id && !node.name.is_empty());
    node.map_or_else(|| short(id), |node| node.name.clone())
}

/// The beginning of an id, which names a node too; the first eight characters are all nodes' own.
fn short(id: &str) -> String {
    id.chars().take(16).collect()
}

fn replicas(shard: &Shard, nodes: &[Node]) -> String {
    let one = |replica: &gem_client::Replica| {
        let name = named(nodes, &replica.node);
        let name = if replica.voter { name } else { format!("({name})") };
        let leads = shard.leader.as_ref() == Some(&replica.node);
        format!("{name}{}{}", if leads { "*" } else { "" }, if replica.alive { "" } else { "!" })
    };
    shard.replicas.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// The whole ring has no digits.
fn prefix(prefix: &str) -> String {
    if prefix.is_empty() { "all".to_owned() } else { prefix.to_owned() }
}

fn standing(node: &Node) -> String {
    match node.down_for_s {
        Some(seconds) => format!("{} for {}", state(node.state), units::show_ms(seconds.saturating_mul(1000))),
        None => state(node.state).to_owned(),
    }
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Unknown => "unknown",
        NodeState::Alive => "alive",
        NodeState::Suspect => "suspect",
        NodeState::Down => "down",
        NodeState::Left => "left",
        NodeState::Draining => "draining",
    }
}

fn health(health: ShardHealth) -> &'static str {
    match health {
        ShardHealth::Unknown => "unknown",
        ShardHealth::Healthy => "healthy",
        ShardHealth::UnderReplicated => "under_replicated",
        ShardHealth::AtRisk => "at_risk",
        ShardHealth::Unavailable => "unavailable",
    }
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// Rounded to whole units below the largest that fits, for reading.
fn about(bytes: u64) -> String {
    let unit = [40, 30, 20, 10].into_iter().find(|bits| bytes >> bits >= 10);
    format_size(unit.map_or(bytes, |bits| bytes >> bits << bits))
}

fn disk_free(node: &Node) -> String {
    if node.is_disk_full { "full".to_owned() } else { about(node.disk_free) }
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// As `GET /v1/mesh` has it.
fn mesh_object(mesh: &Mesh) -> Value {
    json!({
        "mesh": mesh.mesh,
        "node": mesh.node,
        "replicas": mesh.replicas,
        "nodes_alive": mesh.nodes_alive,
        "nodes": mesh.nodes,
        "shards": mesh.shards,
        "healthy": mesh.healthy,
        "under_replicated": mesh.under_replicated,
        "at_risk": mesh.at_risk,
        "unavailable": mesh.unavailable,
        "summary": mesh.summary,
        "advice": mesh.advice,
    })
}

/// As `GET /v1/mesh/nodes` has it.
fn node_object(node: &Node) -> Value {
    json!({
        "node": node.node,
        "name": node.name,
        "zone": node.zone,
        "state": state(node.state),
        "down_for_s": node.down_for_s,
        "http": node.http,
        "mesh": node.mesh,
        "is_me": node.is_me,
        "replicas": node.replicas,
        "leaders": node.leaders,
        "cpu": node.cpu,
        "memory_bytes": node.memory_bytes,
        "memory_limit": node.memory_limit,
        "disk_bytes": node.disk_bytes,
        "disk_free": node.disk_free,
        "is_disk_full": node.is_disk_full,
    })
}

/// As `GET /v1/mesh/shards` has it.
fn shard_object(shard: &Shard) -> Value {
    let replica =
        |replica: &gem_client::Replica| json!({"node": replica.node, "voter": replica.voter, "alive": replica.alive});
    json!({
        "prefix": shard.prefix,
        "group": shard.group,
        "epoch": shard.epoch,
        "leader": shard.leader,
        "term": shard.term,
        "health": health(shard.health),
        "replicas": shard.replicas.iter().map(replica).collect::<Vec<_>>(),
        "doing": shard.doing,
    })
}

#[cfg(test)]
mod tests {
    use gem_client::Replica;

    use super::*;

    #[test]
    fn the_counts_name_only_what_there_is() {
        let mut mesh = Mesh {
            mesh: String::new(),
            node: String::new(),
            replicas: 3,
            nodes_alive: 3,
            nodes: 3,
            shards: 16,
            healthy: 16,
            under_replicated: 0,
            at_risk: 0,
            unavailable: 0,
            summary: String::new(),
            advice: Vec::new(),
        };
        assert_eq!(counts(&mesh), "3 of 3 nodes alive, 16 of 16 shards healthy; 3 replicas a shard");
        (mesh.nodes_alive, mesh.healthy, mesh.at_risk) = (2, 6, 10);
        assert_eq!(counts(&mesh), "2 of 3 nodes alive, 6 of 16 shards healthy, 10 at risk; 3 replicas a shard");
    }

    #[test]
    fn replicas_show_who_leads_votes_and_lives() {
        let replica = |node: &str, voter, alive| Replica { node: node.into(), voter, alive };
        let shard = Shard {
            prefix: "01".into(),
            group: String::new(),
            epoch: 0,
            leader: Some("a".into()),
            term: 1,
            health: ShardHealth::AtRisk,
            replicas: vec![
                replica("a", true, true),
                replica("b", true, false),
                replica("0123456789abcdefghi", false, true),
            ],
            doing: String::new(),
        };
        assert_eq!(replicas(&shard, &[]), "a* b! (0123456789abcdef)");
    }

    #[test]
    fn sizes_are_rounded_for_reading() {
        assert_eq!([0, 1023, 10_241, 5 << 30, (12 << 30) + 1].map(about), ["0B", "1023B", "10KiB", "5120MiB", "12GiB"]);
    }
}
