use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn given(flags: &[(&str, &str)], variables: &[(&str, &str)], file: &str) -> Given {
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Given { flags: map(flags), variables: map(variables), file: Some(file.into()) }
}

fn file(text: &str) -> Result<Config, ConfigError> {
    Config::resolve(&given(&[], &[], text))
}

#[test]
fn the_defaults_are_those_of_the_contract() {
    let config = Config::default();
    assert_eq!(config.data, Path::new("./gem-data"));
    assert_eq!(config.listen.to_string(), "127.0.0.1:7400");
    assert_eq!(config.memory, Memory::Size(2 << 30));
    assert_eq!(config.limits(), Limits::default());
    assert_eq!((config.name.as_deref(), config.insecure, config.auto_create_topics), (None, false, true));
    assert_eq!((config.member_timeout, config.max_clock_skew), (Duration::from_secs(30), Duration::from_secs(5)));
    assert_eq!((config.metrics_topics, config.dedup_bytes, config.shards_log2), (100, 256 << 20, 4));
    assert_eq!(config.log_format, LogFormat::Text);
    let table = config.effective_table();
    assert_eq!(table.len(), KEYS.len());
    for (line, key) in table.iter().zip(KEYS) {
        assert_eq!((line.key, line.value.as_str(), line.source), (key.name, key.default, Source::Default));
    }
}

#[test]
fn a_flag_goes_before_a_variable_before_the_file_before_the_default() {
    let text = "max_key = \"1KiB\"\nmax_id = \"1KiB\"\nmax_headers = \"1KiB\"\n";
    let variables = [("GEM_MAX_ID", "2KiB"), ("GEM_MAX_HEADERS", "2KiB"), ("HOME", "/root")];
    let config = Config::resolve(&given(&[("max-headers", "3KiB")], &variables, text)).unwrap();
    assert_eq!((config.max_key, config.max_id, config.max_headers), (1 << 10, 2 << 10, 3 << 10));
    let source = |key: &str| config.effective_table().into_iter().find(|line| line.key == key).unwrap().source;
    assert_eq!(source("max_key"), Source::File);
    assert_eq!(source("max_id"), Source::Variable);
    assert_eq!(source("max_headers"), Source::Flag);
    assert_eq!(source("max_message"), Source::Default);
}

#[test]
fn toml_s_own_types_are_understood() {
    let config = file("auto_create_topics = false\nmetrics_topics = 7\nmax_batch = 1048576\nmemory = \"80%\"").unwrap();
    assert_eq!((config.auto_create_topics, config.metrics_topics, config.max_batch), (false, 7, 1 << 20));
    assert_eq!(config.memory.bytes(1000), 800);
    assert_eq!(config.limits().max_message, 1 << 20);
}

#[test]
fn what_is_wrong_is_named_with_its_value_and_its_range() {
    for (text, expected) in [
        ("max_mesage = \"1MiB\"", "gem.toml: max_mesage is not a key (its value is \"1MiB\"); the keys are data,"),
        ("max_message = \"9TiB\"", "gem.toml: max_message = \"9TiB\" is not allowed; allowed is 1B to 64MiB"),
        ("member_timeout = 30", "gem.toml: member_timeout = \"30\" is not allowed; allowed is 100ms to 1h"),
        ("memory = \"95%\"", "64MiB to 16TiB, or 1% to 90% of the memory"),
        ("insecure = \"yes\"", "true or false"),
        ("listen = \"somewhere\"", "an IP address and a port"),
        ("listen = \"0.0.0.0:7400\"", "loopback address, or any together with insecure"),
        ("[limits]\nmax_batch = \"1MiB\"", "gem.toml: limits is not a key"),
        ("max_batch = [1]", "gem.toml: max_batch = \"[1]\""),
        ("journal_file_size = \"1MiB\"", "at least 16MiB: twice max_batch"),
        ("journal_limit = \"64MiB\"", "at least 256MiB: four times journal_file_size"),
        ("max_batch = ", "gem.toml can't be read"),
    ] {
        let error = file(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let flag = Config::resolve(&given(&[("max-out", "0")], &[], "")).unwrap_err().to_string();
    assert_eq!(flag, "flag: --max-out = \"0\" is not allowed; allowed is 1 to 16777216");
    let variable = Config::resolve(&given(&[], &[("GEM_MAX_OUT", "x")], "")).unwrap_err().to_string();
    assert!(variable.starts_with("environment: GEM_MAX_OUT = \"x\""), "{variable}");
    assert!(Config::resolve(&given(&[("nonsense", "1")], &[], "")).is_err());
}

#[test]
fn foreign_variables_are_told_not_refused() {
    let variables = [("GEM_SERVICE_HOST", "10.0.0.1"), ("GEM_URL", "http://x"), ("GEM_SECRET", "s")];
    let config = Config::resolve(&given(&[], &variables, "")).unwrap();
    assert_eq!(config.unknown_variables(), ["GEM_SERVICE_HOST"]);
}

#[test]
fn the_mesh_s_defaults_are_those_of_the_contract() {
    let config = Config::default();
    assert_eq!(config.mesh.to_string(), "127.0.0.1:7401");
    assert_eq!((config.mesh_bulk, config.mesh_bulk_address().port()), (None, 7402));
    assert_eq!((&config.join, &config.secret_file, &config.zone), (&vec![], &None, &None));
    assert_eq!((config.replace_after, config.copy_limit), (Duration::from_secs(30), 64 << 20));
    assert!(!config.is_given("mesh") && !config.is_given("nonsense"));
    assert!(file("mesh = \"127.0.0.1:7401\"").unwrap().is_given("mesh"), "even with the default's value");
}

#[test]
fn addresses_to_join_are_a_list_in_the_file_and_divided_by_commas_elsewhere() {
    let two = ["10.0.0.1:7401", "[::1]:7401"];
    let texts = [
        "join = [\"10.0.0.1:7401\", \"[::1]:7401\"]",
        "join = \"10.0.0.1:7401, [::1]:7401\"",
        "join = ['10.0.0.1:7401,[::1]:7401']",
    ];
    for text in texts {
        let config = file(text).unwrap();
        assert_eq!(config.join.iter().map(ToString::to_string).collect::<Vec<_>>(), two, "{text}");
        let line = config.effective_table().into_iter().find(|line| line.key == "join").unwrap();
        assert_eq!((line.value, line.source), (two.join(","), Source::File));
    }
    let variables = [("GEM_JOIN", "localhost:1,127.0.0.1:2")];
    assert_eq!(Config::resolve(&given(&[], &variables, texts[0])).unwrap().join.len(), 2);
    assert!(file("join = []").unwrap().join.is_empty());
}

#[test]
fn mesh_addresses_are_checked_beside_each_other() {
    let bulk = |text: &str| file(text).unwrap().mesh_bulk_address().to_string();
    assert_eq!(bulk("mesh = \"0.0.0.0:8000\""), "0.0.0.0:8001", "off loopback needs no consent");
    assert_eq!(bulk("mesh = \"127.0.0.1:0\""), "127.0.0.1:0");
    assert_eq!(bulk("mesh_bulk = \"10.0.0.1:9\"\nmesh = \"127.0.0.1:65535\""), "10.0.0.1:9");
    assert!(file("listen = \"127.0.0.1:7401\"").is_ok(), "a default gives way");
    assert!(file("listen = \"127.0.0.1:0\"\nmesh = \"127.0.0.1:0\"").is_ok());
    for (text, expected) in [
        ("mesh = \"127.0.0.1:65535\"", "a port below 65535"),
        ("mesh = \"127.0.0.1:7400\"", "an address other than listen's"),
        ("mesh_bulk = \"127.0.0.1:7401\"", "other than those of mesh and listen"),
        ("join = \"example\"", "IP addresses with their ports"),
        ("join = \"127.0.0.1:1,,127.0.0.1:2\"", "IP addresses with their ports"),
        ("join = \"127.0.0.1:0\"", "IP addresses with their ports"),
        ("join = [1]", "gem.toml: join = \"[1]\""),
        ("zone = \"a\\u0007\"", "text of at most 64 bytes"),
        ("replace_after = \"500ms\"", "1s to 1d"),
        ("copy_limit = \"1KiB\"", "64KiB to 1TiB"),
    ] {
        let error = file(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let many = vec!["127.0.0.1:1"; 65].join(",");
    assert!(Config::resolve(&given(&[("join", &many)], &[], "")).is_err());
}

#[test]
fn off_loopback_needs_consent() {
    let flags = [("listen", "0.0.0.0:0"), ("insecure", "true")];
    assert_eq!(Config::resolve(&given(&flags, &[], "")).unwrap().listen.port(), 0);
    assert!(file("listen = \"[::1]:7400\"").is_ok());
    assert_eq!(file("listen = \"localhost:1\"").unwrap().listen.to_string(), "127.0.0.1:1");
}

#[test]
fn the_documented_file_means_the_defaults() {
    let text = Config::documented_toml();
    assert_eq!(file(&text).unwrap().effective_table(), Config::default().effective_table());
    let live: String = text
        .lines()
        .filter(|line| KEYS.iter().any(|key| line.starts_with(&format!("# {} = ", key.name))))
        .map(|line| format!("{}\n", line.trim_start_matches("# ")))
        .collect();
    let config = file(&live).unwrap();
    assert!(config.effective_table().iter().all(|line| line.source == Source::File));
    assert_eq!(config.settings, Config::default().settings);
    assert!(text.lines().all(|line| line.chars().count() <= 110), "lines stay short");
}

#[test]
fn every_key_is_documented() {
    for key in KEYS {
        assert!(key.purpose.ends_with('.') && key.choose.ends_with('.'), "{}", key.name);
    }
}

proptest! {
    #[test]
    fn nothing_given_makes_it_panic(key in "[a-z_]{1,12}", value: String, text: String) {
        let _ = Config::resolve(&given(&[(&key, &value)], &[], ""));
        for known in KEYS {
            let _ = Config::resolve(&given(&[(known.name, &value)], &[], ""));
        }
        let _ = file(&text);
    }
}
