//! Every feature with official clients of both eras and servers of both eras, through bridge and edge: feature × pair,
//! each cell judged by what the clients themselves saw. What they do is in `testkit/real/pairs.*`, the servers are the
//! fixtures there. The table is in the README, which must not differ.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a panic here is a failed test"
)]

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use testkit::process::{Bridge, Edge, Scratch, binary, workspace};
use testkit::real::{self, part};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// One client program in one of its modes.
struct Client {
    /// As the table calls it.
    mark: &'static str,
    program: [&'static str; 2],
    mode: &'static str,
    era: Era,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Era {
    Legacy,
    Modern,
}

/// One server with an edge of its own before it.
struct Setup {
    era: Era,
    edge: Edge,
    /// It ends after the edge, and the journal after both.
    _bridge: Bridge,
    _scratch: Scratch,
}

/// What one client reported of one server, or why it did not.
struct Run {
    client: &'static Client,
    server: Era,
    nonce: String,
    report: Result<Value, String>,
}

/// Whether a cell is as it must be.
enum Verdict {
    Holds,
    /// There is nothing to see.
    None,
    Fails(String),
}

const CLIENTS: [Client; 6] = [
    Client { mark: "TS1", program: ["node", "features_v1.mjs"], mode: "legacy", era: Era::Legacy },
    Client { mark: "TS2", program: ["node", "features_v2.mjs"], mode: "legacy", era: Era::Legacy },
    Client { mark: "Py", program: PYTHON, mode: "legacy", era: Era::Legacy },
    Client { mark: "TS2", program: ["node", "features_v2.mjs"], mode: "2026-07-28", era: Era::Modern },
    Client { mark: "TS2a", program: ["node", "features_v2.mjs"], mode: "auto", era: Era::Modern },
    Client { mark: "Py", program: PYTHON, mode: "2026-07-28", era: Era::Modern },
];
const PYTHON: [&str; 2] = [".venv/bin/python", "features.py"];
/// A feature as the clients report it, and as the table calls it.
const FEATURES: [(&str, &str); 18] = [
    ("tools", "tools"),
    ("prompts", "prompts"),
    ("resources", "resources"),
    ("templates", "resource templates"),
    ("completion", "completion"),
    ("progress", "progress"),
    ("cancel", "cancel"),
    ("logging", "logging, by level"),
    ("subscriptions", "resource subscriptions"),
    ("listChanges", "list changes of all kinds"),
    ("sampling", "sampling"),
    ("form", "elicitation, form"),
    ("url", "elicitation, URL"),
    ("roots", "roots"),
    ("several", "several questions at once"),
    ("rounds", "questions over several rounds"),
    ("tasks", "tasks"),
    ("askingTasks", "tasks that ask"),
];
/// Client, then server.
const PAIRS: [(Era, Era); 4] = [
    (Era::Legacy, Era::Legacy),
    (Era::Legacy, Era::Modern),
    (Era::Modern, Era::Legacy),
    (Era::Modern, Era::Modern),
];
const LEGEND: &str = "\
Legacy is 2025-11-25, modern is 2026-07-28. TS1: the official TypeScript SDK 1.x. TS2: the TypeScript client 2.x with its
package for tasks, in its legacy mode or pinned to 2026-07-28; TS2a: the same, choosing by itself. Py: the Python client
2.x in both modes.

¹ Of 2025-11-25; the Python client has none.
² The TypeScript client 2.x polls such a task and never fetches its question, which is in the result.
³ Not bridged: no tool of a modern server says that it can be a task of 2025-11-25, and the call is an ordinary one.
⁴ Of the extension `io.modelcontextprotocol/tasks`, made by the edge of slow calls where `tasks.after` is set.
";

#[tokio::test(flavor = "multi_thread")]
async fn every_feature_holds_in_every_pair() {
    let setups = [setup(Era::Legacy).await, setup(Era::Modern).await].map(Arc::new);
    let (mut running, room) = (JoinSet::new(), Arc::new(Semaphore::new(AT_ONCE)));
    for (number, client) in CLIENTS.iter().enumerate() {
        for setup in &setups {
            let (setup, room) = (setup.clone(), room.clone());
            running.spawn(async move {
                let _room = room.acquire().await;
                (number, setup.drive(client, number).await)
            });
        }
    }
    let mut runs = running.join_all().await;
    runs.sort_by_key(|(number, _)| *number);
    let runs: Vec<_> = runs.into_iter().map(|(_, run)| run).collect();
    let table = table(&runs);
    // Not by `eprintln!`: that is shown for failed tests only.
    std::io::stderr().write_all(format!("\n{table}").as_bytes()).unwrap();
    let failures: Vec<_> = runs.iter().flat_map(Run::failures).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    readme_holds(&table);
}

/// The README holds the table word for word; with `MCP_WRITE_README` set it does from now on.
fn readme_holds(table: &str) {
    let path = workspace().join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = readme.split_once(BEGIN).expect("the README has the mark of the table's beginning");
    let (held, after) = rest.split_once(END).expect("the README has the mark of the table's end");
    if std::env::var_os("MCP_WRITE_README").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert!(held == table, "the README has another table; `make readme` writes it, or paste:\n{table}");
    }
}

async fn setup(era: Era) -> Setup {
    let scratch = Scratch::new();
    let journal = scratch.write("journal", "").display().to_string();
    let script = match era {
        Era::Legacy => part("fixture/server_v1.mjs"),
        Era::Modern => part("fixture/server_v2.mjs"),
    };
    let bridge = Bridge::start(&["node", &script, "--journal", &journal]).await;
    let mut config = String::from("tasks: {after: 1s}\nauth:\n  tokens:\n");
    let mut command = Command::new(binary("mcp-edge"));
    // Each client is a principal of its own.
    for number in 0..CLIENTS.len() {
        config.push_str(&format!("    - {{env: TOKEN_{number}, principal: client-{number}}}\n"));
        command.env(format!("TOKEN_{number}"), token(number));
    }
    command.arg("--config").arg(scratch.write("edge.yaml", &config));
    command.arg(format!("--server=fixture={}", bridge.address));
    let edge = Edge::start_with(command).await;
    edge.ready().await;
    Setup { era, edge, _bridge: bridge, _scratch: scratch }
}

impl Setup {
    /// Runs one client to its end.
    async fn drive(&self, client: &'static Client, number: usize) -> Run {
        let nonce = format!("client{number}x");
        let report = self.report(client, number, &nonce).await;
        Run { client, server: self.era, nonce, report }
    }

    async fn report(&self, client: &Client, number: usize, nonce: &str) -> Result<Value, String> {
        let [program, script] = client.program;
        let program = if program.starts_with('.') { part(program) } else { program.to_owned() };
        let mut command = Command::new(program);
        command.current_dir(real::directory()).arg(script).env("NO_PROXY", "127.0.0.1").kill_on_drop(true);
        command.args(["--set", "pairs", "--transport", "http", "--era", client.mode, "--nonce", nonce]);
        command.args(["--token", &token(number), "--url", &format!("http://{}/mcp", self.edge.address)]);
        let output = tokio::time::timeout(CLIENT_GUARD, command.output()).await;
        let output =
            output.map_err(|_| "did not end in time".to_owned())?.map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr);
        let report: Value =
            serde_json::from_slice(&output.stdout).map_err(|_| format!("no report: {said}"))?;
        match report["error"].as_str() {
            Some(error) => Err(format!("{error}\n{said}")),
            None if report["version"] != client.era.version() => {
                Err(format!("agreed on {}", report["version"]))
            }
            None => Ok(report),
        }
    }
}

impl Era {
    fn version(self) -> &'static str {
        match self {
            Era::Legacy => "2025-11-25",
            Era::Modern => "2026-07-28",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Era::Legacy => "legacy",
            Era::Modern => "modern",
        }
    }
}

impl Run {
    fn failures(&self) -> Vec<String> {
        let (mode, server) = (self.client.mode, self.server.word());
        let whose = format!("{} {mode} with a {server} server", self.client.mark);
        if let Err(error) = &self.report {
            return vec![format!("{whose}: {error}")];
        }
        let of = |(feature, _): &(&str, &str)| match self.judge(feature) {
            Verdict::Fails(why) => Some(format!("{whose}: {feature}: {why}")),
            Verdict::Holds | Verdict::None => None,
        };
        FEATURES.iter().filter_map(of).collect()
    }

    fn judge(&self, feature: &str) -> Verdict {
        let Ok(report) = &self.report else { return Verdict::Fails("no report".to_owned()) };
        let cell = &report["cells"][feature];
        if let Some(error) = cell["error"].as_str() {
            return Verdict::Fails(error.to_owned());
        }
        let saw = &cell["saw"];
        if self.none(feature).is_some_and(|none| *saw == none) {
            return Verdict::None;
        }
        if self.holds(feature, saw) {
            Verdict::Holds
        } else {
            Verdict::Fails(format!("saw {:.1500}", saw.to_string()))
        }
    }

    /// What a client says that cannot have a feature.
    fn none(&self, feature: &str) -> Option<Value> {
        match (feature, self.client.era, self.client.mark, self.server) {
            ("tasks" | "askingTasks", Era::Legacy, "Py", _) | ("askingTasks", Era::Legacy, "TS2", _) => {
                Some(Value::Null)
            }
            ("tasks" | "askingTasks", Era::Legacy, _, Era::Modern) => Some(json!({"offered": false})),
            _ => None,
        }
    }

    /// Whether what the client saw of a feature is all there is to see, and nothing else.
    fn holds(&self, feature: &str, saw: &Value) -> bool {
        let nonce = &self.nonce;
        match feature {
            "tools" => {
                let structured = if self.server == Era::Modern { json!([1, 2, 3]) } else { Value::Null };
                has(&saw["names"], &["test_simple_text", "test_sampling", "test_wait"])
                    && saw["answer"] == "This is a simple text response for testing."
                    && saw["structured"] == structured
            }
            "prompts" => {
                has(&saw["names"], &["test_simple_prompt", "test_input_required_result_prompt"])
                    && saw["plain"] == json!([format!("Prompt with arguments: arg1='{nonce}', arg2='two'")])
                    && saw["asking"] == json!(["Use the following context: the tests"])
            }
            "resources" => {
                // MCP 2025-11-25 and 2026-07-28 resources, Error Handling
                let missing = if self.client.era == Era::Modern { -32602 } else { -32002 };
                has(&saw["uris"], &["test://static-text", "test://static-binary"])
                    && saw["text"]["text"] == "This is the content of the static text resource."
                    && saw["blob"].as_u64() == Some(96)
                    && saw["missing"] == missing
            }
            "templates" => {
                saw["templates"] == json!(["test://template/{id}/data"]) && saw["data"]["id"] == json!(nonce)
            }
            "completion" => {
                let values = json!(["paris", "park", "party"]);
                (&saw["prompt"], &saw["template"]) == (&values, &values)
            }
            "progress" => counted(saw, &[0.0, 50.0, 100.0]) && ends(&saw["answer"], "executed successfully"),
            "cancel" => saw["known"] == "true",
            "logging" => {
                saw["warning"] == json!(["warning", "error"])
                    && saw["debug"] == json!(["debug", "info", "warning", "error"])
            }
            "subscriptions" => {
                saw["honored"] == json!(["test://static-text"])
                    && only(&saw["before"], "test://static-text")
                    && only(&saw["after"], "test://watched-resource")
            }
            "listChanges" => {
                let words = format!("this is added_{nonce}");
                saw["answers"] == json!([words, words])
            }
            _ => self.asked(feature, saw),
        }
    }

    /// The same of what a server asks its client in the middle of a call, and of tasks.
    fn asked(&self, feature: &str, saw: &Value) -> bool {
        let nonce = &self.nonce;
        let asked = saw["asked"].as_array().map_or(&[][..], Vec::as_slice);
        match (feature, asked) {
            ("sampling", [ask]) => {
                ask["messages"][0]["content"]["text"] == json!(nonce)
                    && saw["answer"] == format!("LLM response: {nonce} samples")
            }
            ("form", [one, two]) => {
                let accepted = format!("User response: action=accept, content={{\"response\":\"{nonce}\"}}");
                let declined = "User response: action=decline, content={}";
                saw["answers"] == json!([accepted, declined])
                    && [one, two].iter().all(|ask| ask["message"] == format!("from {nonce}"))
            }
            ("url", [one, two]) => {
                let of = |ask: &Value| {
                    // MCP 2025-11-25 client/elicitation has an id, 2026-07-28 has none.
                    ask["elicitationId"].is_string() == (self.client.era == Era::Legacy)
                        && (&ask["mode"], &ask["url"])
                            == (&json!("url"), &json!(format!("https://example.org/{nonce}")))
                };
                let answers = json!(["User response: action=accept", "User response: action=decline"]);
                saw["answers"] == answers && of(one) && of(two)
            }
            ("roots", _) => {
                let said = if self.server == Era::Modern { "1 root(s): " } else { "" };
                saw["answer"] == format!("Client exposed {said}file:///{nonce}/1")
            }
            ("several", _) => saw["answer"] == format!("{nonce} samples Ada, 1 root(s)"),
            ("rounds", _) => {
                let answers = json!({
                    "elicitation": "Hello, Ada!",
                    "sampling": format!("Sampling response: {nonce} samples"),
                    "request_state": "state-ok: it came back",
                    "multi_round": "Ada likes green",
                });
                *saw == answers
            }
            ("tasks", _) => {
                (&saw["first"], &saw["last"]) == (&json!("working"), &json!("completed"))
                    && saw["answer"] == format!("released: {nonce}-test_wait")
            }
            ("askingTasks", _) => {
                saw["first"] == "working"
                    && saw["answer"] == format!("released: {nonce}-test_wait_and_ask, by Ada")
            }
            _ => false,
        }
    }
}

fn has(list: &Value, names: &[&str]) -> bool {
    names.iter().all(|name| list.as_array().is_some_and(|list| list.iter().any(|one| one == name)))
}

fn only(list: &Value, uri: &str) -> bool {
    list.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(|seen| seen == uri))
}

fn ends(value: &Value, words: &str) -> bool {
    value.as_str().is_some_and(|text| text.ends_with(words))
}

/// Each progress came, once and in order; and the SDK handed them on. TypeScript's keeps one to itself that comes in one
/// read with the answer.
fn counted(saw: &Value, all: &[f64]) -> bool {
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
    };
    let heard = numbers(&saw["heard"]);
    numbers(&saw["seen"]) == all && (heard == all || heard == all[..all.len() - 1])
}

fn table(runs: &[Run]) -> String {
    let mut rows = vec![vec!["client → server".to_owned()]];
    rows[0].extend(PAIRS.iter().map(|(client, server)| format!("{} → {}", client.word(), server.word())));
    for (feature, title) in FEATURES {
        let mut row = vec![title.to_owned()];
        for (client, server) in PAIRS {
            let here = runs.iter().filter(|run| run.client.era == client && run.server == server);
            let marks: Vec<_> = here.filter_map(|run| mark(run, feature)).collect();
            let note = match (feature, client, server) {
                ("tasks", Era::Legacy, Era::Legacy) => " ¹",
                ("askingTasks", Era::Legacy, Era::Legacy) => " ¹ ²",
                ("tasks" | "askingTasks", Era::Legacy, Era::Modern) => " ³",
                ("tasks" | "askingTasks", Era::Modern, _) => " ⁴",
                _ => "",
            };
            let marks = if marks.is_empty() { "–".to_owned() } else { marks.join(" ") };
            row.push(format!("{marks}{note}"));
        }
        rows.push(row);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap();
    let widths: Vec<_> = (0..rows[0].len()).map(width).collect();
    let line = |cells: &[String]| {
        let cells: Vec<_> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<_> = widths.iter().map(|width| "-".repeat(*width)).collect();
    let body: String = rows[1..].iter().map(|row| line(row)).collect();
    format!("{}{}{body}\n{LEGEND}", line(&rows[0]), line(&rule))
}

fn mark(run: &Run, feature: &str) -> Option<String> {
    match run.judge(feature) {
        Verdict::Holds => Some(run.client.mark.to_owned()),
        Verdict::None => None,
        Verdict::Fails(_) => Some(format!("{} FAILED", run.client.mark)),
    }
}

fn token(number: usize) -> String {
    format!("a-token-of-client-{number}")
}

const BEGIN: &str = "<!-- the output of edge/tests/pairs.rs; `make readme` writes it -->\n";
const END: &str = "<!-- the end of it -->\n";
/// Each client runs processes of the server in addition to its own.
const AT_ONCE: usize = 4;
/// A client needs 3 to 8 s on an idle machine, and waits up to a minute for a thing that does not come.
const CLIENT_GUARD: Duration = Duration::from_secs(180);
