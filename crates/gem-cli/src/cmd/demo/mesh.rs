//! The demo's mesh: its nodes, what they say of it, and what happens to them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gem_client::{Client, ClientConfig, Shard};
use gem_types::TopicName;
use gem_types::ring::Prefix;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::consumers::TOPIC;
use super::node::Node;
use crate::exit::{Exit, Outcome};

/// How long the shards may take to be copied to all nodes.
const WHOLE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// One question to one node.
const ANSWER: Duration = Duration::from_secs(5);

/// The shards that a node led when it was asked about.
#[derive(Clone, Debug, Default)]
pub struct Led {
    /// Their prefixes.
    pub shards: Vec<String>,
    /// All shards of the mesh.
    pub of: usize,
    /// Whether the demo's topic lies in one of them.
    pub has_topic: bool,
}

impl Led {
    pub fn text(&self) -> String {
        let topic = if self.has_topic { ", the topic's among them" } else { "" };
        format!("{} of {} shards{topic}", self.shards.len(), self.of)
    }
}

/// All nodes that run, and those that are gone.
pub struct Mesh {
    dir: PathBuf,
    secret: PathBuf,
    nodes: Vec<Node>,
    /// Index of the one that was killed for good.
    dead: Option<usize>,
}

impl Mesh {
    /// Founds a mesh and has `count - 1` nodes join it.
    pub async fn start(dir: &Path, count: usize) -> Outcome<Mesh> {
        let founder = Node::start(dir.to_owned(), 1, None).await?;
        let secret = founder.secret();
        let mut joining = JoinSet::new();
        for number in 2..=count {
            joining.spawn(Node::start(dir.to_owned(), number, Some(founder.invitation(&secret))));
        }
        let mut nodes = vec![founder];
        while let Some(joined) = joining.join_next().await {
            nodes.push(joined.map_err(|error| Exit::failed(format!("demo: a node's start ended: {error}")))??);
        }
        nodes.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(Mesh { dir: dir.to_owned(), secret, nodes, dead: None })
    }

    /// Waits until every node sees all others, and every shard with all its replicas. `None`: that
    /// did not come about in time. Else the number of shards.
    pub async fn whole(&self, patience: Duration) -> Outcome<Option<u32>> {
        let deadline = Instant::now() + patience;
        let mut clients = Vec::new();
        for (_, node) in self.living() {
            clients.push(asking(&node.url)?);
        }
        let alive = clients.len() as u32;
        loop {
            let mut shards = Vec::new();
            for client in &clients {
                // One that does not answer yet is asked again.
                let Ok(mesh) = client.mesh().await else { break };
                if mesh.nodes_alive == alive && mesh.shards > 0 && mesh.healthy == mesh.shards {
                    shards.push(mesh.shards);
                }
            }
            if shards.len() == clients.len() && shards.iter().min() == shards.iter().max() {
                return Ok(shards.first().copied());
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            sleep(POLL).await;
        }
    }

    /// As [`Mesh::whole`], for a start that can't go on without.
    pub async fn founded(&self) -> Outcome<u32> {
        self.whole(WHOLE).await?.ok_or_else(|| {
            let (seconds, dir) = (WHOLE.as_secs(), self.dir.display());
            Exit::failed(format!("demo: the mesh was not whole within {seconds} s; the nodes' logs are in {dir}"))
        })
    }

    /// The URLs of the nodes that live, beginning with number `first` counted round.
    pub fn urls(&self, first: usize) -> String {
        let mut urls: Vec<&str> = self.living().map(|(_, node)| node.url.as_str()).collect();
        let first = first % urls.len().max(1);
        urls.rotate_left(first);
        urls.join(",")
    }

    /// The node with this index in the order of starts.
    pub fn node(&self, index: usize) -> Outcome<&Node> {
        self.nodes.get(index).ok_or_else(|| Exit::failed(format!("demo: there is no node {index}")))
    }

    /// The last one that was started.
    pub fn last(&self) -> usize {
        self.nodes.len().saturating_sub(1)
    }

    /// The node that leads the shard of the demo's topic (the first one where nobody says), by its
    /// index, and all that it leads.
    pub async fn leader(&self) -> Outcome<(usize, Led)> {
        let position = TopicName::new(TOPIC)?.position();
        let has_topic = |shard: &Shard| shard.prefix.parse::<Prefix>().is_ok_and(|prefix| prefix.contains(position));
        let shards = asking(&self.urls(0))?.shards().await?;
        let leader = shards.iter().find(|shard| has_topic(shard)).and_then(|shard| shard.leader.as_ref());
        let index = self.nodes.iter().position(|node| Some(&node.id) == leader).unwrap_or(0);
        let id = &self.node(index)?.id;
        let led: Vec<&Shard> = shards.iter().filter(|shard| shard.leader.as_ref() == Some(id)).collect();
        let led = Led {
            shards: led.iter().map(|shard| shard.prefix.clone()).collect(),
            of: shards.len(),
            has_topic: led.iter().any(|shard| has_topic(shard)),
        };
        Ok((index, led))
    }

    /// Replicas that the node with this index holds, as it says itself.
    pub async fn replicas(&self, index: usize) -> Outcome<u32> {
        let node = self.node(index)?;
        let nodes = asking(&node.url)?.nodes().await?;
        Ok(nodes.iter().find(|other| other.node == node.id).map_or(0, |node| node.replicas))
    }

    /// kill -9; the node may be restarted.
    pub async fn kill(&mut self, index: usize) -> Outcome {
        self.dead = Some(index);
        match self.nodes.get_mut(index) {
            Some(node) => node.kill().await,
            None => Ok(()),
        }
    }

    /// Starts the killed node again; answers how long that took.
    pub async fn restart(&mut self) -> Outcome<Duration> {
        let dead = self.dead.take().and_then(|index| self.nodes.get_mut(index));
        dead.ok_or_else(|| Exit::failed("demo: no node is dead"))?.restart().await
    }

    /// Begins to start one more node, which joins through one that lives.
    pub fn invite(&self, into: &mut JoinSet<Outcome<(Node, Duration)>>) {
        let host = self.living().map(|(_, node)| node).next();
        let invitation = host.map(|host| host.invitation(&self.secret));
        // Without a node that lives there is nothing left to join, and the proof says so.
        if invitation.is_some() {
            let start = Node::start(self.dir.clone(), self.nodes.len() + 1, invitation);
            let started = Instant::now();
            into.spawn(async move { Ok((start.await?, started.elapsed())) });
        }
    }

    /// The newcomer is there.
    pub fn welcome(&mut self, node: Node) {
        self.nodes.push(node);
    }

    /// SIGTERM for all that live; whether all ended in time with exit code 0.
    pub async fn stop(self) -> bool {
        let mut stopping = JoinSet::new();
        for (index, node) in self.nodes.into_iter().enumerate() {
            if Some(index) != self.dead {
                stopping.spawn(node.stop());
            }
        }
        stopping.join_all().await.into_iter().all(|cleanly| cleanly)
    }

    fn living(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(index, _)| Some(*index) != self.dead)
    }
}

/// A client for questions about the mesh.
fn asking(urls: &str) -> Outcome<Client> {
    Ok(Client::with_config(ClientConfig { timeout: ANSWER, attempt_timeout: ANSWER, ..ClientConfig::new(urls)? })?)
}
