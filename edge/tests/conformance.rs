//! The official conformance suite against fixture servers of the official SDKs: the server of a revision's own era
//! alone first, then the servers of both eras behind the release bridge and the release edge. What holds alone
//! and not there is a bug of ours, or stands with its reason in `testkit/real/conformance-REVISION-SERVER.yml`.
//! An entry there that no longer applies fails the test as well.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use testkit::eventually;
use testkit::process::{Bridge, Edge, Process, Scratch, binary, free_address};
use testkit::real::{self, node, part};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::Instant;

/// One revision of the suite's requirements, and the server of its own era.
struct Era {
    revision: &'static str,
    own: Server,
}

/// A fixture of one era.
#[derive(Clone, Copy)]
struct Server {
    era: &'static str,
    script: &'static str,
}

/// One revision on one server, through the edge.
struct Pair {
    server: Server,
    report: Report,
    expected: Vec<Entry>,
    /// Scenario and check of all that holds alone but not here.
    lost: Vec<(String, String)>,
}

/// A run of the suite.
struct Report {
    /// The checks that hold, by scenario. One that was skipped does not hold: the suite calls a scenario passed
    /// when it skipped all its checks.
    holds: BTreeMap<String, BTreeSet<String>>,
    /// The suite's own judgement, which knows the expected failures.
    accepted: bool,
    output: String,
    took: Duration,
}

/// A scenario, or one check of it, that is expected not to hold behind the edge.
struct Entry {
    scenario: String,
    check: Option<String>,
    reason: String,
}

const TOKEN: &str = "a-token-for-the-suite";

const LEGACY: Server = Server { era: "legacy", script: "fixture/server_v1.mjs" };
const MODERN: Server = Server { era: "modern", script: "fixture/server_v2.mjs" };

#[tokio::test(flavor = "multi_thread")]
async fn the_requirements_of_2025_11_25_hold_behind_bridge_and_edge() {
    (Era { revision: "2025-11-25", own: LEGACY }).prove().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requirements_of_2026_07_28_hold_behind_bridge_and_edge() {
    (Era { revision: "2026-07-28", own: MODERN }).prove().await;
}

impl Era {
    async fn prove(&self) {
        let required = required(self.revision);
        let alone = self.run_alone().await;
        let pairs = [self.pair(LEGACY, &alone).await, self.pair(MODERN, &alone).await];
        // Not by `eprintln!`: that is shown for failed tests only.
        std::io::stderr().write_all(self.table(&required, &alone, &pairs).as_bytes()).unwrap();
        assert!(alone.accepted, "the fixture does not pass alone:\n{}", alone.output);
        for name in &required {
            assert!(alone.holds.contains_key(name), "{name} did not run:\n{}", alone.output);
        }
        for pair in &pairs {
            pair.judge();
        }
    }

    /// The fixture's own HTTP transport: nothing of ours takes part.
    async fn run_alone(&self) -> Report {
        let address = free_address();
        let mut command = Command::new(node());
        command.arg(part(self.own.script)).args(["--http", &address.port().to_string()]);
        let _fixture = Process::start(command);
        eventually("the fixture to listen", async || TcpStream::connect(address).await.ok()).await;
        self.suite(address, &[]).await
    }

    async fn pair(&self, server: Server, alone: &Report) -> Pair {
        // The suite gives a call of a client that no process was started for yet 600 ms, and Node takes half of that.
        let options = ["--warm", "2"];
        let bridge = Bridge::start_at(free_address(), &options, &[node(), part(server.script)]).await;
        let mut command = Command::new(binary("mcp-edge"));
        command.arg("--server").arg(format!("fixture={}", bridge.address));
        command.env("MCP_GATEWAY_AUTH_TOKEN", TOKEN);
        let edge = Edge::start_with(command).await;
        edge.ready().await;
        let list = part(&format!("conformance-{}-{}.yml", self.revision, server.era));
        let report = self.suite(edge.address, &["--expected-failures", &list]).await;
        let lost = alone.lost_in(&report);
        Pair { server, report, expected: entries(Path::new(&list)), lost }
    }

    async fn suite(&self, address: SocketAddr, options: &[&str]) -> Report {
        let scratch = Scratch::new();
        let results = scratch.path("results");
        let mut command = Command::new(node());
        command.current_dir(real::directory()).env("MCP_TOKEN", TOKEN).kill_on_drop(true);
        command.args(["--import", "./authorized.mjs"]);
        command.arg(part("node_modules/@modelcontextprotocol/conformance/dist/index.js"));
        command.args(["server", "--url", &format!("http://{address}/mcp")]);
        command.args(["--requirements", self.revision, "--output-dir"]).arg(&results).args(options);
        let began = Instant::now();
        let output = tokio::time::timeout(SUITE_GUARD, command.output()).await;
        let output = output.expect("the suite ends in time").expect("the suite starts");
        let said = [output.stdout, output.stderr].concat();
        Report {
            holds: holds(&results),
            accepted: output.status.success(),
            output: String::from_utf8_lossy(&said).into_owned(),
            took: began.elapsed(),
        }
    }

    /// The checks that hold in each scenario: alone, behind the edge on a legacy and on a modern server.
    fn table(&self, required: &[String], alone: &Report, pairs: &[Pair]) -> String {
        let count = |report: &Report, name: &String| report.holds.get(name).map_or(0, BTreeSet::len);
        let mut table = format!("\nconformance {}{:27}alone", self.revision, "");
        for pair in pairs {
            table.push_str(&format!(" {:>6}", pair.server.era));
        }
        let extra = alone.holds.keys().filter(|name| !required.contains(name));
        for name in required.iter().chain(extra) {
            table.push_str(&format!("\n  {name:47}{:5}", count(alone, name)));
            let mut notes = BTreeSet::new();
            for pair in pairs {
                table.push_str(&format!(" {:6}", count(&pair.report, name)));
                notes.extend(
                    pair.expected.iter().filter(|entry| entry.scenario == *name).map(|entry| &*entry.reason),
                );
            }
            notes.extend((!required.contains(name)).then_some("(not required)"));
            if !notes.is_empty() {
                table.push_str(&format!("  {}", notes.into_iter().collect::<Vec<_>>().join("; ")));
            }
        }
        table.push_str(&format!("\n  {:47}{:5}", "required scenarios without a loss", required.len()));
        for pair in pairs {
            let whole = |name: &&String| !pair.lost.iter().any(|(scenario, _)| scenario == *name);
            table.push_str(&format!(" {:6}", required.iter().filter(whole).count()));
        }
        table.push_str(&format!("\n  {:47}{:5.1}", "seconds", alone.took.as_secs_f64()));
        for pair in pairs {
            table.push_str(&format!(" {:6.1}", pair.report.took.as_secs_f64()));
        }
        table.push('\n');
        table
    }
}

impl Pair {
    fn judge(&self) {
        let (era, output) = (self.server.era, &self.report.output);
        let listed = |lost: &&(String, String)| self.expected.iter().any(|entry| entry.covers(lost));
        let unlisted: Vec<_> = self.lost.iter().filter(|lost| !listed(lost)).collect();
        assert!(unlisted.is_empty(), "lost behind the edge on a {era} server: {unlisted:?}\n{output}");
        for entry in &self.expected {
            let applies = self.lost.iter().any(|lost| entry.covers(lost));
            assert!(applies, "{} {:?} holds on {era}: take it off the list", entry.scenario, entry.check);
        }
        assert!(self.report.accepted, "the suite says otherwise on a {era} server:\n{output}");
    }
}

impl Report {
    /// Scenario and check of all that holds here but not there.
    fn lost_in(&self, other: &Report) -> Vec<(String, String)> {
        let all = self.holds.iter().flat_map(|(name, checks)| checks.iter().map(move |check| (name, check)));
        let still = |name, check| other.holds.get(name).is_some_and(|checks| checks.contains(check));
        let lost = all.filter(|&(name, check)| !still(name, check));
        lost.map(|(name, check)| (name.clone(), check.clone())).collect()
    }
}

impl Entry {
    fn covers(&self, (scenario, check): &(String, String)) -> bool {
        self.scenario == *scenario && self.check.as_ref().is_none_or(|own| own == check)
    }
}

/// The suite writes one directory for each scenario that did not throw: `server-SCENARIO-TIME/checks.json`.
fn holds(results: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut holds = BTreeMap::new();
    for entry in std::fs::read_dir(results).into_iter().flatten() {
        let path = entry.unwrap().path();
        let directory = path.file_name().unwrap().to_string_lossy().into_owned();
        let name = directory.strip_prefix("server-").unwrap();
        let name = &name[..name.len() - "-2026-11-20T21-34-46-575Z".len()];
        let checks = std::fs::read(path.join("checks.json")).unwrap();
        let checks: Vec<Value> = serde_json::from_slice(&checks).unwrap();
        let of = |status| {
            let found = checks.iter().filter(move |check| check["status"] == status);
            found.map(|check| check["id"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
        };
        // A check that runs several times holds if it holds each time.
        holds.insert(name.to_owned(), &of("SUCCESS") - &of("FAILURE"));
    }
    holds
}

/// The scenarios that a revision requires of servers, from the suite's own list.
fn required(revision: &str) -> Vec<String> {
    let list = part(&format!("node_modules/@modelcontextprotocol/conformance/requirements/{revision}.yaml"));
    let text = std::fs::read_to_string(list).unwrap();
    let names = text.lines().skip_while(|line| *line != "server:").skip(1);
    let names = names.map_while(|line| line.strip_prefix("  - "));
    let names: Vec<_> = names.map(str::to_owned).collect();
    assert!(names.len() >= 30, "the suite's list is written in another way now");
    names
}

/// The lines of a list: `  - scenario # reason` or `  - scenario:check # reason`.
fn entries(list: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(list).unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("  - "));
    let entry = |line: &str| {
        let (name, reason) = line.split_once(" # ").unwrap_or_else(|| panic!("{line} has no reason"));
        let (scenario, check) =
            name.split_once(':').map_or((name, None), |(name, check)| (name, Some(check)));
        Entry { scenario: scenario.to_owned(), check: check.map(str::to_owned), reason: reason.to_owned() }
    };
    lines.map(entry).collect()
}

/// The suite has no timeout of its own; it needs 2 to 8 s on an idle machine.
const SUITE_GUARD: Duration = Duration::from_secs(120);
