//! The graph of crates is one-way: binary → services → core.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use gantry_tests::{paths, run};

/// This machine's target triple.
fn host() -> String {
    let version = run(Command::new("rustc").arg("-vV")).ok();
    let line = version.stdout.lines().find_map(|l| l.strip_prefix("host: "));
    line.expect("rustc tells its host").to_owned()
}

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut command = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    command.current_dir(paths::source());
    command.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    // What other platforms need was never downloaded.
    command.args(["--filter-platform", &host()]);
    let metadata: serde_json::Value =
        serde_json::from_str(&run(&mut command).ok().stdout).expect("metadata is JSON");
    let name_of: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|p| (p["id"].as_str().expect("id"), p["name"].as_str().expect("name")))
        .collect();
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let mut graph = BTreeMap::new();
    for node in nodes {
        let name = name_of[node["id"].as_str().expect("id")];
        let normal = node["deps"].as_array().expect("deps").iter().filter(|d| {
            d["dep_kinds"].as_array().expect("kinds").iter().any(|k| k["kind"].is_null())
        });
        let to = normal.map(|d| name_of[d["pkg"].as_str().expect("pkg")].to_owned());
        graph.entry(name.to_owned()).or_insert_with(BTreeSet::new).extend(to);
    }
    graph
}

fn reachable(graph: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut todo = vec![from.to_owned()];
    while let Some(name) = todo.pop() {
        for next in graph.get(&name).into_iter().flatten() {
            if seen.insert(next.clone()) {
                todo.push(next.clone());
            }
        }
    }
    seen
}

const SERVICES: [&str; 11] = [
    "gantry-metadata",
    "gantry-content",
    "gantry-snapshots",
    "gantry-mounts",
    "gantry-diff",
    "gantry-events",
    "gantry-images",
    "gantry-tasks",
    "gantry-volumes",
    "gantry-networks",
    "gantry-engine",
];

#[test]
fn services_meet_only_in_core() {
    let graph = dependencies();
    for service in SERVICES {
        let wrong: Vec<_> = graph[service]
            .iter()
            .filter(|d| SERVICES.contains(&d.as_str()) || *d == "gantryd")
            .collect();
        assert!(wrong.is_empty(), "{service} imports {wrong:?}");
    }
    assert!(graph["gantry-core"].iter().all(|d| !d.starts_with("gantry")), "core imports nobody");
    for shared in ["gantry-archive", "gantry-files"] {
        let ours: Vec<_> = graph[shared].iter().filter(|d| d.starts_with("gantry")).collect();
        assert_eq!(ours, ["gantry-core"], "what several services use imports core alone");
    }
}

#[test]
fn the_shim_links_neither_tonic_nor_rocksdb() {
    let linked = reachable(&dependencies(), "containerd-shim-gantry-v2");
    for package in ["tonic", "rocksdb", "gantry-grpc", "gantry-metadata", "hyper"] {
        assert!(!linked.contains(package), "the shim links {package}");
    }
    assert!(linked.contains("libcontainer"));
}

#[test]
fn the_ctl_imports_no_service() {
    let linked = reachable(&dependencies(), "gantry");
    let wrong: Vec<_> = SERVICES.iter().filter(|s| linked.contains(**s)).collect();
    assert!(wrong.is_empty(), "gantry links {wrong:?}");
    assert!(!linked.contains("rocksdb"));
}
