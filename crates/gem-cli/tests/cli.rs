//! The command line as its users meet it: exit codes, output, and a node as a process.
#![allow(clippy::disallowed_methods, reason = "a test owns its processes and files")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn gem(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gem"));
    command.args(args).env_remove("GEM_URL").env_remove("GEM_DEMO_INPUT").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    gem(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn wrong_usage_is_2() {
    for args in [
        &["pub"][..],
        &["topic"],
        &["topic", "alter", "orders"],
        &["topic", "create", "orders", "--retention", "7 parsecs"],
        &["sub", "orders", "--mode", "key"],
        &["pub", "orders", "--id", "7"],
        &["demo"],
        &["demo", "--nodes", "2"],
        &["start", "--listen", "0.0.0.0:0"],
        &["start", "--memory", "lots"],
        &["config", "--config", "/nonexistent/gem.toml"],
        &["topic", "list", "--url", ""],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_failure_is_1_and_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("events.ndjson");
    let output = run(&["demo", "--input", missing.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let line = text(&output.stderr);
    assert_eq!(line.lines().count(), 1);
    assert!(line.starts_with("gem: demo: ") && line.contains("events.ndjson"), "{line}");
}

#[test]
fn the_version_names_commit_and_format() {
    let output = text(&run(&["--version"]).stdout);
    assert!(
        output.starts_with("gem ") && output.contains("commit ") && output.contains("on-disk format 1"),
        "{output}"
    );
}

#[test]
fn the_configuration_says_where_each_value_came_from() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("gem.toml"), "max_id = \"64B\"\n").unwrap();
    let mut command = gem(&["config", "--json", "--memory", "512MiB"]);
    command.current_dir(dir.path()).env("GEM_MAX_KEY", "1KiB");
    let config: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let of = |key: &str| (config[key]["value"].as_str().unwrap(), config[key]["source"].as_str().unwrap());
    assert_eq!(of("memory"), ("512MiB", "flag"));
    assert_eq!(of("max_key"), ("1KiB", "environment"));
    assert_eq!(of("max_id"), ("64B", "gem.toml"));
    assert_eq!(of("max_message"), ("1MiB", "default"));

    std::fs::write(dir.path().join("gem.toml"), "max_ids = 7\n").unwrap();
    let output = gem(&["config"]).current_dir(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("max_ids"), "{}", text(&output.stderr));
}

#[test]
fn keys_of_the_mesh_are_flags_too() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["config", "--json", "--join", "10.0.0.1:7401", "--join", "10.0.0.2:7401", "--zone", "a", "--mesh"];
    let mut command = gem(&args);
    command.args(["0.0.0.0:7500", "--secret-file", "s"]).current_dir(dir.path()).env("GEM_MESH_BULK", "0.0.0.0:1");
    let config: Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let of = |key: &str| config[key]["value"].as_str().unwrap();
    assert_eq!((of("join"), of("zone")), ("10.0.0.1:7401,10.0.0.2:7401", "a"));
    assert_eq!((of("mesh"), of("mesh_bulk"), of("secret_file")), ("0.0.0.0:7500", "0.0.0.0:1", "s"));
}

#[test]
fn a_mesh_of_processes_names_the_ports_that_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (listener, base) = loop {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if port < u16::MAX - 12 {
            break (listener, port);
        }
    };
    let output = gem(&["dev", "--port", &base.to_string(), "--data"]).arg(dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = text(&output.stderr);
    assert!(line.contains(&format!("{base} (node-1)")) && line.contains("--port"), "{line}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "nothing was started");
    drop(listener);
}

/// A node as a process; it ends with the test.
struct Node {
    child: Child,
    url: String,
}

impl Node {
    fn start(data: &Path) -> Node {
        let mut command = gem(&["start", "--listen", "127.0.0.1:0", "--memory", "256MiB", "--data"]);
        let mut child = command.arg(data).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let fields: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(fields.len(), 4, "{line:?}");
        assert!(fields[0] == "ready" && fields[1].starts_with("node=") && fields[3].starts_with("mesh="), "{line:?}");
        let url = fields[2].strip_prefix("http=").unwrap().to_owned();
        Node { child, url }
    }

    /// Runs a client command, which must succeed, and answers its standard output.
    fn gem(&self, args: &[&str]) -> String {
        self.feed(args, "")
    }

    fn feed(&self, args: &[&str], input: &str) -> String {
        let mut command = gem(args);
        command.env("GEM_URL", &self.url).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.gem(args)).unwrap()
    }

    fn terminate(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It has ended already where the test ended it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn messages_go_round_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let node = Node::start(&data);

    // A second node on the same directory is refused.
    let second = run(&["start", "--listen", "127.0.0.1:0", "--data", data.to_str().unwrap()]);
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(text(&second.stderr).lines().filter(|line| line.starts_with("gem: start: ")).count(), 1);

    let first = node.json(&["pub", "orders", "first", "--id", "a", "--key", "k", "--header", "x=1", "--json"]);
    assert_eq!((&first["offset"], &first["duplicate"]), (&Value::from(0), &Value::from(false)));
    let again = node.json(&["pub", "orders", "other", "--id", "a", "--key", "k", "--json"]);
    assert_eq!((&again["offset"], &again["duplicate"]), (&Value::from(0), &Value::from(true)));
    node.feed(&["pub", "orders"], "second\nthird\n");
    node.feed(&["pub", "orders", "--ndjson"], "{\"payload\":{\"n\":4},\"id\":\"d\"}\n");

    let lines = node.gem(&["sub", "orders", "--from", "earliest", "--count", "4", "--timeout", "10s"]);
    assert_eq!(lines, "first\nsecond\nthird\n{\"n\":4}\n");
    let lines = node.gem(&["sub", "orders", "--from", "earliest", "--count", "1", "--json", "--timeout", "10s"]);
    let message: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((&message["id"], &message["key"], &message["payload"]), (&"a".into(), &"k".into(), &"first".into()));
    assert_eq!((&message["headers"]["x"], &message["delivery"]), (&"1".into(), &Value::Null));

    assert_eq!(node.gem(&["sub", "orders", "--group", "g", "--count", "2", "--timeout", "10s"]), "first\nsecond\n");
    let group = node.json(&["group", "show", "orders", "g", "--json"]);
    assert_eq!((&group["lag"], &group["mode"]), (&Value::from(2), &"shared".into()));
    node.json(&["group", "seek", "orders", "g", "--to", "0:3", "--json"]);

    assert_eq!(node.terminate(), Some(0));
    let node = Node::start(&data);
    let lines = node.gem(&["sub", "orders", "--group", "g", "--count", "1", "--json", "--timeout", "10s"]);
    let message: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((&message["offset"], &message["payload"]["n"]), (&Value::from(3), &Value::from(4)));
    node.gem(&["group", "delete", "orders", "g"]);
    assert_eq!(node.gem(&["group", "list", "orders"]), "");
    assert_eq!(node.terminate(), Some(0));
}

#[test]
fn topics_are_administered() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("data"));
    node.gem(&["topic", "create", "logs", "--retention", "1d", "--retention-bytes", "1GiB", "--max-deliveries", "3"]);
    let topic = node.json(&["topic", "show", "logs", "--json"]);
    assert_eq!((&topic["retention_ms"], &topic["retention_bytes"]), (&86_400_000.into(), &(1 << 30).into()));
    let topic = node.json(&["topic", "alter", "logs", "--retention-bytes", "none", "--ack-timeout", "5s", "--json"]);
    assert_eq!((&topic["retention_bytes"], &topic["ack_timeout_ms"]), (&Value::Null, &5_000.into()));
    assert_eq!(topic["max_deliveries"], 3);

    let conflict = gem(&["topic", "create", "logs"]).env("GEM_URL", &node.url).output().unwrap();
    assert_eq!(conflict.status.code(), Some(1));
    assert!(text(&conflict.stderr).ends_with("[conflict]\n"), "{}", text(&conflict.stderr));

    node.gem(&["pub", "logs", "x"]);
    node.gem(&["topic", "purge", "logs"]);
    assert_eq!(node.json(&["topic", "show", "logs", "--json"])["messages"], 0);
    assert!(node.gem(&["topic", "list"]).starts_with("logs\t1\t0\t"));
    node.gem(&["topic", "delete", "logs"]);
    assert_eq!(node.json(&["topic", "list", "--json"])["topics"], Value::Array(Vec::new()));
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("data"));
    node.feed(&["pub", "many"], &"line\n".repeat(20_000));
    let mut command = gem(&["sub", "many", "--from", "earliest", "--timeout", "20s"]);
    let mut child = command.env("GEM_URL", &node.url).stdout(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 5];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    assert_eq!(&some, b"line\n");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_bench_reports_what_the_contract_names() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::start(&dir.path().join("data"));
    let pid = node.child.id().to_string();
    for verb in ["publish", "deliver", "latency"] {
        let report = node.json(&["bench", verb, "--messages", "2000", "--size", "100B", "--json", "--pid", &pid]);
        assert_eq!(report["messages"], 2000, "{verb}: {report}");
        assert_eq!(report["errors"], 0, "{verb}: {report}");
        for key in ["bytes", "seconds", "messages_per_s", "mib_per_s", "server_cpu_s_per_million"] {
            assert!(report[key].is_number(), "{verb}: {key} in {report}");
        }
        for key in ["p50", "p90", "p99", "p999", "max"] {
            assert!(report["latency_ms"][key].is_number(), "{verb}: {key} in {report}");
        }
    }
}
