//! The port, over a log in memory: what HTTP and gRPC themselves promise.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gem_proto::v1;
use gem_proto::v1::publisher_client::PublisherClient;
use gem_proto::v1::subscribe_request::Request as Said;
use gem_proto::v1::subscribe_response::Response as Heard;
use gem_proto::v1::subscriber_client::SubscriberClient;
use gem_store::budget::Budget;
use gem_types::seams::{OsRandom, SystemClock};
use serde_json::{Value, json};
use tonic_types::StatusExt;

use crate::gateway::memory_log::MemoryLog;
use crate::gateway::{Gateway, Settings};
use crate::metrics::Metrics;
use crate::ready::Ready;
use crate::rest::{self, App};
use crate::serve::{Routers, Server};

/// Method, path, content type, body, status and code.
type Case = (&'static str, &'static str, Option<&'static str>, &'static str, u16, &'static str);

struct Up {
    server: Server,
    log: MemoryLog,
    url: String,
    http: reqwest::Client,
}

async fn up() -> Up {
    let log = MemoryLog::new(1);
    let settings = Settings { patience: Duration::from_millis(20), ..Settings::default() };
    let gateway = Arc::new(Gateway::new(
        Arc::new(log.clone()),
        Arc::new(SystemClock::new()),
        Arc::new(OsRandom),
        settings,
        Arc::new(Metrics::new(10)),
        Budget::new(1 << 30, &[]),
    ));
    let ready = Arc::new(Ready::asking("starting", || None));
    let grpc = crate::grpc::routes(gateway.clone()).await;
    let rest = rest::routes(App { gateway, ready });
    let starting = Routers { rest: rest::starting(), grpc: crate::grpc::starting() };
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), starting).await.unwrap();
    server.serve(Routers { rest, grpc });
    let url = format!("http://{}", server.address);
    Up { server, log, url, http: reqwest::Client::new() }
}

impl Up {
    async fn call(
        &self,
        method: &str,
        path: &str,
        kind: Option<&str>,
        body: impl Into<reqwest::Body>,
    ) -> (u16, reqwest::header::HeaderMap, Value) {
        let method = method.parse().unwrap();
        let mut request = self.http.request(method, format!("{}{path}", self.url)).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        (status, headers, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
}

#[tokio::test]
async fn every_wrong_request_is_a_problem() {
    let up = up().await;
    let table: [Case; 14] = [
        ("GET", "/nowhere", None, "", 404, "not_found"),
        ("GET", "/v1/topics/t/nothing", None, "", 404, "not_found"),
        ("DELETE", "/v1/topics", None, "", 405, "invalid_argument"),
        ("PUT", "/v1/topics/t/messages", None, "", 405, "invalid_argument"),
        ("PUT", "/v1/topics/t", Some("text/plain"), "{}", 415, "unsupported_media_type"),
        ("PUT", "/v1/topics/t", None, "{", 400, "invalid_argument"),
        ("PUT", "/v1/topics/t", None, r#"{"colour":1}"#, 400, "invalid_argument"),
        ("PUT", "/v1/topics/a%20b", None, "{}", 400, "invalid_argument"),
        ("PUT", "/v1/topics/a.dlq", None, "{}", 400, "invalid_argument"),
        ("GET", "/v1/topics/t/messages?limit=0", None, "", 400, "invalid_argument"),
        ("GET", "/v1/topics/t/messages?from=never", None, "", 400, "invalid_argument"),
        ("GET", "/v1/topics/t/messages", None, "", 404, "not_found"),
        ("POST", "/v1/topics/t/messages", Some("application/x-ndjson"), "", 415, "unsupported_media_type"),
        ("GET", "/readyz", None, "", 503, "unavailable"),
    ];
    for (method, path, kind, body, status, code) in table {
        let (got, headers, problem) = up.call(method, path, kind, body).await;
        assert_eq!((got, problem["code"].as_str()), (status, Some(code)), "{method} {path}: {problem}");
        assert_eq!(headers["content-type"], "application/problem+json");
        assert_eq!(problem["status"], status);
        assert_eq!(headers.contains_key("allow"), status == 405, "{method} {path}");
        assert_eq!(headers.contains_key("retry-after"), status == 503);
    }
}

#[tokio::test]
async fn what_is_published_is_read() {
    let up = up().await;
    let post = up
        .http
        .post(format!("{}/v1/topics/t/messages", up.url))
        .header("gem-key", "k")
        .header("gem-header-Color", "red");
    let receipt: Value = post.json(&json!({"n": 1})).send().await.unwrap().json().await.unwrap();
    assert_eq!((receipt["offset"].as_u64(), receipt["duplicate"].as_bool()), (Some(0), Some(false)));
    let batch = r#"{"messages":[{"payload":"a"},{"payload":[1, 2],"id":"mine"}]}"#;
    let (status, _, results) =
        up.call("POST", "/v1/topics/t/messages", Some("application/vnd.gem.batch+json"), batch).await;
    assert_eq!((status, results["results"][1]["id"].as_str()), (201, Some("mine")));
    let (_, _, page) = up.call("GET", "/v1/topics/t/messages?from=earliest&limit=2", None, "").await;
    let first = &page["messages"][0];
    assert_eq!(
        (&first["payload"]["n"], &first["key"], &first["headers"]["color"]),
        (&json!(1), &json!("k"), &json!("red"))
    );
    assert_eq!(first["id"], receipt["id"]);
    let cursor = page["cursor"].as_str().unwrap();
    let (_, _, rest) = up.call("GET", &format!("/v1/topics/t/messages?cursor={cursor}"), None, "").await;
    assert_eq!(rest["messages"][0]["payload"], json!([1, 2]));
    assert!(rest["messages"].as_array().unwrap().len() == 1);
    let (_, _, metrics) = up.call("GET", "/metrics", None, "").await;
    assert!(metrics.as_str().unwrap().contains("gem_published_messages_total{topic=\"t\"} 3"), "{metrics}");
}

#[tokio::test]
async fn what_is_too_large_is_told_so() {
    let up = up().await;
    let (status, _, problem) = up.call("POST", "/v1/topics/t/messages", None, vec![b'x'; (1 << 20) + 1]).await;
    assert_eq!((status, problem["code"].as_str()), (413, Some("too_large")));
    let (status, _, _) = up.call("POST", "/v1/topics/t/messages", None, vec![b'x'; 1 << 20]).await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn a_stream_of_batches_is_answered_in_order() {
    let up = up().await;
    let mut client = PublisherClient::connect(up.url.clone()).await.unwrap();
    let batch = |n: u64| v1::PublishStreamRequest {
        topic: "t".into(),
        messages: vec![v1::Message { payload: "x".into(), ..Default::default() }; 3],
        r#ref: n,
        ..Default::default()
    };
    let bad = v1::PublishStreamRequest { topic: "no such name".into(), r#ref: 3, ..batch(3) };
    let requests = vec![v1::PublishStreamRequest::default(), batch(1), batch(2), bad, batch(4)];
    let answers = client.publish_stream(futures::stream::iter(requests)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(|a| a.unwrap()).collect().await;
    assert_eq!(answers.iter().map(|a| a.r#ref).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert!(answers[0].producer_id > 0 && answers.iter().all(|a| a.producer_id == answers[0].producer_id));
    let range = answers[4].range.as_ref().unwrap();
    assert_eq!((range.first_offset, range.count, range.id_base.len()), (6, 3, 16));
    assert_eq!(answers[3].error.as_ref().unwrap().code, "invalid_argument");
    let numbers: Vec<_> =
        up.log.appends().into_iter().filter_map(|a| a.producer).map(|p| (p.numbers[0], p.previous)).collect();
    assert_eq!(numbers, [(1, 0), (4, 3), (10, 6)]);
}

#[tokio::test]
async fn a_reader_gets_no_more_than_its_credit() {
    let up = up().await;
    let mut publisher = PublisherClient::connect(up.url.clone()).await.unwrap();
    let messages = vec![v1::Message { payload: "x".into(), ..Default::default() }; 5];
    let publish = v1::PublishRequest { topic: "t".into(), messages, ..Default::default() };
    let published = publisher.publish(publish).await.unwrap().into_inner();
    assert_eq!(published.results.len(), 5);
    let mut client = SubscriberClient::connect(up.url.clone()).await.unwrap();
    let (says, said) = tokio::sync::mpsc::channel(4);
    let start = v1::SubscribeStart { topic: "t".into(), from: "earliest".into(), credit: 2, ..Default::default() };
    says.send(v1::SubscribeRequest { request: Some(Said::Start(start)) }).await.unwrap();
    let stream = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut heard = client.subscribe(stream).await.unwrap().into_inner();
    let mut next = async || heard.message().await.unwrap().unwrap().response.unwrap();
    assert!(matches!(next().await, Heard::Started(s) if !s.cursor.is_empty()));
    assert!(matches!(next().await, Heard::Batch(b) if b.messages.is_empty() && !b.cursor.is_empty()));
    assert!(matches!(next().await, Heard::Batch(b) if b.messages.len() == 2));
    let more = v1::Credit { messages: 10 };
    says.send(v1::SubscribeRequest { request: Some(Said::Credit(more)) }).await.unwrap();
    assert!(matches!(next().await, Heard::Batch(b) if b.messages.len() == 3 && b.messages[0].offset == 2));
}

#[tokio::test]
async fn a_refusal_over_grpc_tells_its_reason() {
    let up = up().await;
    let mut client = SubscriberClient::connect(up.url.clone()).await.unwrap();
    let status = client.read(v1::ReadRequest { topic: "none".into(), ..Default::default() }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "not_found");
    up.log.refuse(vec![gem_types::Error::throttled("full", 500)]);
    let mut client = PublisherClient::connect(up.url.clone()).await.unwrap();
    let messages = vec![v1::Message::default()];
    let status =
        client.publish(v1::PublishRequest { topic: "t".into(), messages, ..Default::default() }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert!(status.get_error_details().retry_info().is_some());
}

#[tokio::test]
async fn a_stop_waits_for_what_runs() {
    let up = up().await;
    up.call("PUT", "/v1/topics/t", None, "{}").await;
    let waiting = up.http.get(format!("{}/v1/topics/t/messages?wait_ms=300", up.url)).send();
    let (answer, ()) = tokio::join!(waiting, async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        up.server.stop(Duration::from_secs(5)).await;
    });
    assert_eq!(answer.unwrap().status(), 200);
    assert!(up.http.get(format!("{}/healthz", up.url)).send().await.is_err());
}

#[tokio::test]
async fn a_node_that_starts_says_so() {
    let starting = Routers { rest: rest::starting(), grpc: crate::grpc::starting() };
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), starting).await.unwrap();
    let url = format!("http://{}", server.address);
    let http = reqwest::Client::new();
    assert_eq!(http.get(format!("{url}/healthz")).send().await.unwrap().status(), 200);
    for path in ["readyz", "metrics", "v1/topics"] {
        let answer = http.get(format!("{url}/{path}")).send().await.unwrap();
        assert_eq!(answer.status(), 503, "{path}");
        assert!(answer.headers().contains_key("retry-after"));
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "unavailable");
    }
    let mut publisher = PublisherClient::connect(url).await.unwrap();
    let told = publisher.publish(v1::PublishRequest::default()).await.unwrap_err();
    assert_eq!(told.code(), tonic::Code::Unavailable);
    assert_eq!(told.get_error_details().error_info().unwrap().reason, "unavailable");
}
