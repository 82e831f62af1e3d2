//! The mesh over REST and gRPC, with a mesh that is made up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use gem_proto::v1;
use gem_proto::v1::admin_client::AdminClient;
use gem_store::budget::Budget;
use gem_types::seams::{OsRandom, SystemClock};
use gem_types::{Error, NodeId, Result};
use serde_json::{Value, json};

use crate::gateway::memory_log::MemoryLog;
use crate::gateway::mesh::{MeshAdmin, MeshStatus, NodeState, NodeStatus, ReplicaStatus, ShardHealth, ShardStatus};
use crate::gateway::{Gateway, Settings};
use crate::metrics::Metrics;
use crate::ready::Ready;
use crate::rest::{self, App};
use crate::serve::{Routers, Server};

const DEAD: NodeId = NodeId([2; 32]);

/// Two nodes: one that is asked, and one that is down and holds the only voter of a shard.
#[derive(Default)]
struct Fake {
    draining: AtomicBool,
    is_stuck: AtomicBool,
}

impl MeshAdmin for Fake {
    fn status(&self) -> MeshStatus {
        MeshStatus {
            mesh: "m".into(),
            node: NodeId([1; 32]).to_string(),
            replicas: 3,
            nodes_alive: 1,
            nodes: 2,
            shards: 1,
            healthy: 0,
            under_replicated: 0,
            at_risk: 0,
            unavailable: 1,
            summary: "1 of 1 shards does not serve.".into(),
            advice: vec!["Start node two again.".into()],
        }
    }

    fn nodes(&self) -> Vec<NodeStatus> {
        let node = |byte: u8, name: &str, state, down_for_s| NodeStatus {
            node: NodeId([byte; 32]).to_string(),
            name: name.into(),
            zone: "a".into(),
            state,
            down_for_s,
            http: format!("http://127.0.0.1:74{byte}0"),
            mesh: format!("127.0.0.1:74{byte}1"),
            is_me: byte == 1,
            replicas: 4,
            leaders: 1,
            cpu: 0.25,
            memory_bytes: 1,
            memory_limit: 2,
            disk_bytes: 3,
            disk_free: u64::MAX >> 11,
            is_disk_full: false,
        };
        let first = if self.draining.load(Ordering::SeqCst) { NodeState::Draining } else { NodeState::Alive };
        vec![node(1, "one", first, None), node(2, "two", NodeState::Down, Some(7))]
    }

    fn shards(&self) -> Vec<ShardStatus> {
        let replica = ReplicaStatus { node: DEAD.to_string(), voter: true, alive: false };
        vec![ShardStatus {
            prefix: "01".into(),
            group: "g".into(),
            epoch: 5,
            leader: None,
            term: 9,
            health: ShardHealth::Unavailable,
            replicas: vec![replica],
            doing: "waits for node two".into(),
        }]
    }

    fn find(&self, text: &str) -> Result<NodeId> {
        match text {
            "one" | "a name" => Ok(NodeId([1; 32])),
            "two" => Ok(DEAD),
            _ => Err(Error::not_found(format!("no node is called {text:?}"))),
        }
    }

    fn drain(&self, _node: NodeId, cancel: bool) -> BoxFuture<'_, Result<()>> {
        async move {
            if self.is_stuck.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            self.draining.store(!cancel, Ordering::SeqCst);
            Ok(())
        }
        .boxed()
    }

    fn remove(&self, node: NodeId, accept_data_loss: bool) -> BoxFuture<'_, Result<()>> {
        let answer = match (node == DEAD, accept_data_loss) {
            (true, true) => Ok(()),
            (true, false) => Err(Error::conflict("shard 01 would lose its only voter")),
            (false, _) => Err(Error::conflict("node one answers: drain it first")),
        };
        std::future::ready(answer).boxed()
    }
}

struct Up {
    server: Server,
    gateway: Arc<Gateway>,
    url: String,
    http: reqwest::Client,
}

async fn up() -> Up {
    let settings = Settings { publish_deadline: Duration::from_millis(200), ..Settings::default() };
    let gateway = Arc::new(Gateway::new(
        Arc::new(MemoryLog::new(1)),
        Arc::new(SystemClock::new()),
        Arc::new(OsRandom),
        settings,
        Arc::new(Metrics::new(10)),
        Budget::new(1 << 30, &[]),
    ));
    let grpc = crate::grpc::routes(gateway.clone()).await;
    let rest = rest::routes(App { gateway: gateway.clone(), ready: Arc::new(Ready::asking("starting", || None)) });
    let starting = Routers { rest: rest::starting(), grpc: crate::grpc::starting() };
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), starting).await.unwrap();
    server.serve(Routers { rest, grpc });
    let url = format!("http://{}", server.address);
    Up { server, gateway, url, http: reqwest::Client::new() }
}

impl Up {
    async fn call(&self, line: &str, body: Value) -> (u16, Value) {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url));
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or(Value::Null))
    }
}

#[tokio::test]
async fn a_node_that_does_not_know_its_mesh_yet_says_so() {
    let up = up().await;
    for line in ["GET /v1/mesh", "GET /v1/mesh/nodes", "GET /v1/mesh/shards", "POST /v1/mesh/nodes/one/drain"] {
        let (status, problem) = up.call(line, Value::Null).await;
        assert_eq!((status, &problem["code"]), (503, &json!("unavailable")), "{line}");
    }
    assert!(up.gateway.set_mesh(Arc::new(Fake::default())));
    assert!(!up.gateway.set_mesh(Arc::new(Fake::default())), "the first one stays");
    assert_eq!(up.call("GET /v1/mesh", Value::Null).await.0, 200);
    up.server.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn the_mesh_over_rest() {
    let up = up().await;
    let fake = Arc::new(Fake::default());
    up.gateway.set_mesh(fake.clone());
    let (_, mesh) = up.call("GET /v1/mesh", Value::Null).await;
    assert_eq!(
        (&mesh["nodes_alive"], &mesh["unavailable"], &mesh["advice"][0]),
        (&json!(1), &json!(1), &json!("Start node two again."))
    );
    let (_, page) = up.call("GET /v1/mesh/nodes", Value::Null).await;
    let (one, two) = (&page["nodes"][0], &page["nodes"][1]);
    assert_eq!((&one["state"], &one["is_me"], &one["down_for_s"]), (&json!("alive"), &json!(true), &json!(null)));
    assert_eq!((&two["state"], &two["name"], &two["down_for_s"]), (&json!("down"), &json!("two"), &json!(7)));
    let (_, page) = up.call("GET /v1/mesh/shards", Value::Null).await;
    let shard = &page["shards"][0];
    assert_eq!(
        (&shard["health"], &shard["leader"], &shard["prefix"]),
        (&json!("unavailable"), &json!(null), &json!("01"))
    );
    assert_eq!((&shard["replicas"][0]["voter"], &shard["replicas"][0]["alive"]), (&json!(true), &json!(false)));

    let (status, node) = up.call("POST /v1/mesh/nodes/a%20name/drain", Value::Null).await;
    assert_eq!((status, &node["state"], &node["name"]), (200, &json!("draining"), &json!("one")));
    let (_, node) = up.call("POST /v1/mesh/nodes/one/drain", json!({"cancel": true})).await;
    assert_eq!(node["state"], "alive");
    for (line, body, status, code) in [
        ("POST /v1/mesh/nodes/three/drain", Value::Null, 404, "not_found"),
        ("POST /v1/mesh/nodes/one/drain", json!({"cancle": true}), 400, "invalid_argument"),
        ("POST /v1/mesh/nodes/one/remove", json!({"accept_data_loss": true}), 409, "conflict"),
        ("POST /v1/mesh/nodes/two/remove", Value::Null, 409, "conflict"),
        ("POST /v1/mesh/nodes/two/remove", json!({"accept_data_loss": 1}), 400, "invalid_argument"),
        ("GET /v1/mesh/nodes/two/remove", Value::Null, 405, "invalid_argument"),
    ] {
        let (said, problem) = up.call(line, body).await;
        assert_eq!((said, &problem["code"]), (status, &json!(code)), "{line}: {problem}");
    }
    assert_eq!(up.call("POST /v1/mesh/nodes/two/remove", json!({"accept_data_loss": true})).await.0, 204);

    fake.is_stuck.store(true, Ordering::SeqCst);
    let (status, problem) = up.call("POST /v1/mesh/nodes/one/drain", Value::Null).await;
    assert_eq!((status, &problem["code"]), (504, &json!("deadline")), "{problem}");
    up.server.stop(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn the_mesh_over_grpc() {
    let up = up().await;
    up.gateway.set_mesh(Arc::new(Fake::default()));
    let mut client = AdminClient::connect(up.url.clone()).await.unwrap();
    let mesh = client.get_mesh(v1::GetMeshRequest {}).await.unwrap().into_inner().mesh.unwrap();
    assert_eq!((mesh.nodes_alive, mesh.nodes, mesh.replicas, mesh.advice.len()), (1, 2, 3, 1));
    let nodes = client.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!((nodes[0].state(), nodes[0].down_for_s), (v1::NodeState::Alive, None));
    assert_eq!((nodes[1].state(), nodes[1].down_for_s), (v1::NodeState::Down, Some(7)));
    let shards = client.list_shards(v1::ListShardsRequest {}).await.unwrap().into_inner().shards;
    assert_eq!((shards[0].health(), &shards[0].leader), (v1::ShardHealth::Unavailable, &None));
    assert_eq!(shards[0].replicas[0].node, DEAD.to_string());

    let drain = |node: &str, cancel| v1::DrainNodeRequest { node: node.into(), cancel };
    let node = client.drain_node(drain("one", false)).await.unwrap().into_inner().node.unwrap();
    assert_eq!(node.state(), v1::NodeState::Draining);
    let node = client.drain_node(drain("one", true)).await.unwrap().into_inner().node.unwrap();
    assert_eq!(node.state(), v1::NodeState::Alive);
    assert_eq!(client.drain_node(drain("three", false)).await.unwrap_err().code(), tonic::Code::NotFound);
    let remove = |accept_data_loss| v1::RemoveNodeRequest { node: "two".into(), accept_data_loss };
    assert!(client.remove_node(remove(false)).await.unwrap_err().message().contains("only voter"));
    client.remove_node(remove(true)).await.unwrap();
    up.server.stop(Duration::from_secs(1)).await;
}
