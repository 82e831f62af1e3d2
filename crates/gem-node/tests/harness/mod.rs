//! A node on a directory of its own.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::BTreeMap;
use std::path::Path;

use gem_node::Node;
use gem_types::config::{Config, Given};
use serde_json::Value;
use tempfile::TempDir;

pub struct Up {
    pub node: Option<Node>,
    pub dir: TempDir,
    pub http: reqwest::Client,
}

pub fn config(dir: &Path, more: &[(&str, &str)]) -> Config {
    let mut flags = BTreeMap::from([
        ("data".to_owned(), dir.display().to_string()),
        ("listen".to_owned(), "127.0.0.1:0".to_owned()),
        ("memory".to_owned(), "256MiB".to_owned()),
        ("journal_file_size".to_owned(), "16MiB".to_owned()),
        ("shards_log2".to_owned(), "2".to_owned()),
    ]);
    flags.extend(more.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
    Config::resolve(&Given { flags, ..Given::default() }).unwrap()
}

impl Up {
    pub async fn start() -> Up {
        Up::with(&[]).await
    }

    pub async fn with(more: &[(&str, &str)]) -> Up {
        let dir = tempfile::tempdir().unwrap();
        let node = Node::start(&config(dir.path(), more)).await.unwrap();
        Up { node: Some(node), dir, http: reqwest::Client::new() }
    }

    pub fn url(&self) -> String {
        self.node.as_ref().unwrap().url()
    }

    pub async fn restart(&mut self) {
        self.node.take().unwrap().shutdown().await;
        self.node = Some(Node::start(&config(self.dir.path(), &[])).await.unwrap());
    }

    /// A call with a JSON body, or none where that is null.
    pub async fn call(&self, line: &str, body: Value) -> (u16, Value) {
        let (method, path) = line.split_once(' ').unwrap();
        let mut request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.url()));
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Publishes text, and answers the receipt.
    pub async fn publish(&self, topic: &str, text: &str) -> Value {
        let url = format!("{}/v1/topics/{topic}/messages", self.url());
        let response = self.http.post(url).body(text.to_owned()).send().await.unwrap();
        assert_eq!(response.status(), 201);
        response.json().await.unwrap()
    }

    pub async fn stop(mut self) {
        self.node.take().unwrap().shutdown().await;
    }
}
