//! The contract's HTTP calls against a real node.

mod harness;

use harness::Up;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_store_deliver_ack_and_restart() {
    let mut up = Up::start().await;
    let receipt = up.publish("orders", "first").await;
    assert_eq!((receipt["partition"].as_u64(), receipt["offset"].as_u64()), (Some(0), Some(0)));
    up.publish("orders", "second").await;
    let (status, page) = up.call("POST /v1/topics/orders/groups/g/pull", json!({"consumer": "c", "max": 1})).await;
    assert_eq!((status, page["messages"][0]["payload"].as_str()), (200, Some("first")), "{page}");
    let token = page["messages"][0]["ack_token"].clone();
    let (_, settled) = up.call("POST /v1/topics/orders/groups/g/ack", json!({"tokens": [token]})).await;
    assert_eq!(settled["results"][0]["status"], "acked");

    up.restart().await;
    let (_, group) = up.call("GET /v1/topics/orders/groups/g", Value::Null).await;
    assert_eq!((&group["lag"], &group["mode"]), (&json!(1), &json!("shared")));
    let (_, page) = up.call("POST /v1/topics/orders/groups/g/pull", json!({"consumer": "c"})).await;
    assert_eq!((&page["messages"][0]["payload"], &page["messages"][0]["delivery"]), (&json!("second"), &json!(1)));
    let (_, page) = up.call("GET /v1/topics/orders/messages?from=earliest", Value::Null).await;
    assert_eq!(page["messages"].as_array().unwrap().len(), 2);
    assert_eq!(up.publish("orders", "third").await["offset"], 2);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_live_and_die() {
    let up = Up::start().await;
    let (status, topic) = up.call("PUT /v1/topics/t", json!({"max_deliveries": 7})).await;
    assert_eq!((status, &topic["max_deliveries"], &topic["partitions"]), (201, &json!(7), &json!(1)));
    assert_eq!(up.call("PUT /v1/topics/t", json!({"max_deliveries": 7})).await.0, 200);
    assert_eq!(up.call("PUT /v1/topics/t", json!({})).await.0, 409);
    let (status, topic) = up.call("PATCH /v1/topics/t", json!({"retention_bytes": 1000})).await;
    assert_eq!((status, &topic["retention_bytes"]), (200, &json!(1000)));
    let (_, topic) = up.call("PATCH /v1/topics/t", json!({"retention_bytes": null})).await;
    assert_eq!((&topic["retention_bytes"], &topic["max_deliveries"]), (&json!(null), &json!(7)));
    assert_eq!(up.call("PATCH /v1/topics/t", json!({"retention_ms": null})).await.0, 400);
    up.publish("t", "x").await;
    assert_eq!(up.call("POST /v1/topics/t/purge", Value::Null).await.0, 204);
    let (_, topic) = up.call("GET /v1/topics/t", Value::Null).await;
    assert_eq!((&topic["messages"], &topic["bytes"]), (&json!(0), &json!(0)));
    assert_eq!(up.publish("t", "y").await["offset"], 1);
    let (_, page) = up.call("GET /v1/topics?prefix=t", Value::Null).await;
    assert_eq!((page["topics"].as_array().unwrap().len(), &page["cursor"]), (1, &json!(null)));
    assert_eq!(up.call("DELETE /v1/topics/t", Value::Null).await.0, 204);
    assert_eq!(up.call("GET /v1/topics/t", Value::Null).await.0, 404);
    assert_eq!(up.publish("t", "z").await["offset"], 0);
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_id_is_stored_once() {
    let up = Up::start().await;
    let url = format!("{}/v1/topics/t/messages", up.url());
    let post = |body: &'static str| up.http.post(&url).header("gem-id", "one").body(body).send();
    let first: Value = post("a").await.unwrap().json().await.unwrap();
    let again: Value = post("b").await.unwrap().json().await.unwrap();
    assert_eq!((&again["offset"], &again["duplicate"]), (&first["offset"], &json!(true)));
    let batch = r#"{"messages":[{"payload":1,"id":"x"},{"payload":2,"id":"x"},{"payload":3}]}"#;
    let request = up.http.post(&url).header("content-type", "application/vnd.gem.batch+json").body(batch);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 201);
    let results: Value = response.json().await.unwrap();
    let offsets: Vec<_> =
        results["results"].as_array().unwrap().iter().map(|r| r["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, [1, 1, 2], "{results}");
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_handle_becomes_a_dead_letter() {
    let up = Up::start().await;
    up.call("PUT /v1/topics/t", json!({"max_deliveries": 2})).await;
    up.publish("t", "poison").await;
    for delivery in 1..=2 {
        let (_, page) = up.call("POST /v1/topics/t/groups/g/pull", json!({"consumer": "c"})).await;
        assert_eq!(page["messages"][0]["delivery"], delivery, "{page}");
        let token = page["messages"][0]["ack_token"].clone();
        up.call("POST /v1/topics/t/groups/g/nack", json!({"tokens": [token]})).await;
    }
    let mut page = Value::Null;
    for _ in 0..100 {
        page = up.call("GET /v1/topics/t.g.dlq/messages?from=earliest&wait_ms=100", Value::Null).await.1;
        if page["messages"].as_array().is_some_and(|m| !m.is_empty()) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let dead = &page["messages"][0];
    assert_eq!((&dead["payload"], &dead["headers"]["gem-source-topic"]), (&json!("poison"), &json!("t")), "{page}");
    // The letter is published before the source records that it has moved: the group shows it a
    // moment later, and must show it.
    let mut group = Value::Null;
    for _ in 0..200 {
        group = up.call("GET /v1/topics/t/groups/g", Value::Null).await.1;
        if group["dead_lettered"] == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert_eq!((&group["lag"], &group["dead_lettered"]), (&json!(0), &json!(1)), "{group}");
    let (_, metrics) = up.call("GET /metrics", Value::Null).await;
    assert!(metrics.as_str().unwrap().contains("gem_dead_lettered_messages_total{topic=\"t\"} 1"), "{metrics}");
    up.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_node_on_the_directory_is_refused() {
    let up = Up::start().await;
    let again = gem_node::Node::start(&harness::config(up.dir.path(), &[])).await;
    assert!(again.err().is_some());
    assert_eq!(up.call("GET /readyz", Value::Null).await.0, 200);
    up.stop().await;
}
