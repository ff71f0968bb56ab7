//! Configuration from the outside: the result of flags, file and variables together, and their problems.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test are test code")]

mod oauth;
mod policy;
mod secrets;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use edge::config::{Command, Config, Transport, load};
use edge::router::names::Prefix;
use edge::upstream::{EraChoice, Isolation, Source};

/// A configuration file that lives as long as its test.
struct Written(PathBuf);

impl Written {
    fn new(test: &str, text: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("mcp-edge-config-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("edge.yaml"), text).unwrap();
        Self(folder)
    }

    fn path(&self) -> String {
        self.0.join("edge.yaml").display().to_string()
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Command, String> {
    let args = ["mcp-edge"].iter().chain(args).map(Into::into);
    let env = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).into());
    load(args, env).map_err(|error| error.to_string())
}

const TOKEN: (&str, &str) = ("MCP_GATEWAY_AUTH_TOKEN", "secret");

fn serve(args: &[&str]) -> Config {
    match run(args, &[TOKEN]) {
        Ok(Command::Serve(config)) => *config,
        other => panic!("{other:?}"),
    }
}

/// The problems of a file, without its name. The flags make sure that there are no others.
fn complaints(test: &str, text: &str) -> Vec<String> {
    let file = Written::new(test, text);
    let error = run(&["--config", &file.path(), "--servers=time"], &[TOKEN]).unwrap_err();
    error.lines().map(|line| line.replace(&file.path(), "edge.yaml")).collect()
}

fn names(config: &Config) -> Vec<&str> {
    config.servers.iter().map(|server| server.upstream.name.as_str()).collect()
}

fn endpoints(config: &Config) -> Vec<String> {
    let shown = |source: &Source| match source {
        Source::Endpoints(addresses) => {
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        }
        Source::Command { program, args, env } => format!("{program} {} {env:?}", args.join(" ")),
    };
    config.servers.iter().map(|server| shown(&server.upstream.source)).collect()
}

#[test]
fn the_manifests_of_the_go_gateway_work_unchanged() {
    let config = serve(&[
        "--static=true",
        "--servers=duckduckgo,fetch",
        "--transport=streaming",
        "--port=8811",
        "--log-calls",
        "--verbose=false",
        "--block-secrets=false",
        "--tools=search,fetch",
    ]);
    assert_eq!(names(&config), ["duckduckgo", "fetch"]);
    assert_eq!(endpoints(&config), ["mcp-duckduckgo:4444", "mcp-fetch:4444"]);
    assert_eq!(config.listen.address.to_string(), "[::]:8811");
    assert_eq!(config.admin.address.to_string(), "[::]:9090");
    assert_eq!(config.router.tools, Some(HashSet::from(["search".to_owned(), "fetch".to_owned()])));
    assert!(config.front.log_calls && !config.log.verbose && config.front.streaming);
    assert_eq!(&*config.auth.tokens[0].principal, "default");
}

const WHOLE: &str = r#"
listen: "127.0.0.1:8811"
admin: "[::1]:9090"
hosts: [edge.example]
cors: {origins: ["https://app.example.com"]}
tls: {cert: tls.crt, key: /run/tls.key}
auth:
  tokens: [{env: NEW_TOKEN, principal: ci}, {env: OLD_TOKEN, principal: ci}]
prefix: always
servers:
  zulu: {address: "127.0.0.1:4444"}
  time: {address: ["unix:/run/mcp/time.sock", "time:4444"], isolation: shared, era: legacy, prefix: conflict, connections: 8}
  local: {command: [npx, -y, server-memory], env: {KEY: value, PORT: 5}}
  plain:
limits: {body: 8MiB, frame: 32MiB, connections: 500, sessions: 700, call_timeout: 60s, idle_timeout: 1m, drain: 20s}
"#;

#[test]
fn a_whole_file_is_understood() {
    let file = Written::new("whole", WHOLE);
    let env = [("NEW_TOKEN", "new\n"), ("OLD_TOKEN", "old")];
    let Ok(Command::Serve(config)) = run(&["--config", &file.path()], &env) else { panic!("it is valid") };
    assert_eq!(names(&config), ["zulu", "time", "local", "plain"], "in the order of the file");
    let local = r#"npx -y server-memory {"KEY": "value", "PORT": "5"}"#;
    let sources = ["127.0.0.1:4444", "unix:/run/mcp/time.sock,time:4444", local, "mcp-plain:4444"];
    assert_eq!(endpoints(&config), sources);
    let time = &config.servers[1];
    assert_eq!((time.upstream.isolation, time.upstream.era), (Isolation::Shared, EraChoice::Legacy));
    assert_eq!((time.upstream.connections, time.prefix), (8, Prefix::Conflict));
    assert_eq!(config.servers[0].prefix, Prefix::Always);

    let tls = config.listen.tls.as_ref().unwrap();
    assert_eq!(tls.cert, file.0.join("tls.crt"), "relative to the file");
    assert_eq!(tls.key, PathBuf::from("/run/tls.key"));
    assert_eq!(config.auth.tokens.len(), 2);
    assert!(config.front.rules.loopback);
    assert_eq!(config.front.rules.hosts, ["edge.example".parse().unwrap()]);
    assert_eq!(config.front.rules.origins, ["https://app.example.com".parse().unwrap()]);
    let frames =
        [&config.front.limits, &config.router.limits, &config.upstream.limits].map(|l| l.frame_bytes);
    assert_eq!((frames, config.front.limits.body_bytes), ([32 << 20; 3], 8 << 20));
    assert_eq!(
        config.router.late,
        config.upstream.longest_way(),
        "as long as a call may wait for a connection"
    );
    assert_eq!((config.permits.connections, config.session.sessions), (500, 700));
    assert_eq!(config.session.principal_sessions, 700, "the bound of all unless it is given");
    assert_eq!(config.upstream.call_timeout, Duration::from_secs(60));
    assert_eq!((config.drain.delay.as_secs(), config.drain.grace.as_secs()), (5, 15));
}

#[test]
fn flags_go_over_the_file() {
    let file = Written::new("over", WHOLE);
    let args = [
        "--config",
        &file.path(),
        "--port=0",
        "--admin=127.0.0.1:0",
        "--servers=time,new",
        "--server",
        "time=10.0.0.1:4444",
        "--server=more=unix:/run/more.sock",
    ];
    let Ok(Command::Serve(config)) = run(&args, &[("NEW_TOKEN", "a"), ("OLD_TOKEN", "b")]) else {
        panic!("it is valid")
    };
    assert_eq!(config.listen.address.to_string(), "127.0.0.1:0", "the host of the file stays");
    assert_eq!(config.admin.address.to_string(), "127.0.0.1:0");
    assert_eq!(names(&config), ["time", "new", "more"]);
    assert_eq!(endpoints(&config), ["10.0.0.1:4444", "mcp-new:4444", "unix:/run/more.sock"]);
    assert_eq!(config.servers[0].upstream.isolation, Isolation::Shared, "the rest of the file's stays");
}

#[test]
fn a_file_that_is_none_is_named() {
    let said = run(&["--config=/nowhere/edge.yaml", "--servers=time"], &[TOKEN]).unwrap_err();
    assert!(said.starts_with("/nowhere/edge.yaml: cannot be read: "), "{said}");
    assert_eq!(
        complaints("twice", "prefix: always\nprefix: conflict\n"),
        ["edge.yaml:2: `prefix` is given twice, first in line 1"]
    );
    assert_eq!(complaints("broken", "prefix: always\nlimits: [\n"), ["edge.yaml:2: unclosed bracket '['"]);
    assert!(complaints("list", "- listen\n")[0].starts_with("edge.yaml:1: keys with values"));
}

#[test]
fn what_counts_only_at_the_next_start_is_known() {
    let said = |test: &str, text: &str| {
        let file = Written::new(test, text);
        match run(&["--config", &file.path()], &[TOKEN]) {
            Ok(Command::Serve(config)) => config.files,
            other => panic!("{other:?}"),
        }
    };
    let before = said("said-1", "servers: {a: {}}\nlimits: {depth: 64, drain: 30s}\nhosts: [a.b]");
    let same = said(
        "said-2",
        "# moved\nhosts: [a.b]\n\nlimits:\n  depth: '64'\n  drain: 30s\nservers: {b: {}}\nprefix: always",
    );
    let other = said("said-3", "servers: {a: {}}\nlimits: {depth: 64, drain: 31s}\nlisten: '[::]:1'");
    assert!(before.restart_only_changes(&same).is_empty());
    assert_eq!(before.restart_only_changes(&other), ["hosts", "limits", "listen"]);
}

#[test]
fn what_is_not_there_yet_is_refused_and_not_ignored() {
    for (flag, word) in [
        ("--block-secrets", "not supported yet"),
        ("--block-secrets=true", "not supported yet"),
        ("--transport=http", "`streaming`, `sse` and `stdio`"),
        ("--static=false", "leave it out"),
    ] {
        let said = run(&["--servers=time", flag], &[TOKEN]).unwrap_err();
        let name = flag.split('=').next().unwrap();
        assert!(said.starts_with(name) && said.contains(word), "{said}");
    }
}

#[test]
fn a_transport_that_is_named_is_the_only_one() {
    let served = |args: &[&str]| {
        let config = serve(&[&["--servers=a"], args].concat());
        assert_eq!(config.transport, Transport::Http);
        (config.front.streaming, config.front.sse)
    };
    assert_eq!(served(&[]), (true, true));
    assert_eq!(served(&["--transport=streaming"]), (true, false));
    assert_eq!(served(&["--transport=sse"]), (false, true));
}

#[test]
fn unknown_flags_are_answered_with_the_nearest() {
    for (given, nearest) in
        [("--sevrers=a", "--servers"), ("--log-call", "--log-calls"), ("--lissen", "--listen")]
    {
        let said = run(&[given], &[]).unwrap_err();
        assert!(said.contains(given.split('=').next().unwrap()) && said.contains(nearest), "{said}");
    }
}

#[test]
fn flags_that_are_wrong_are_named_all_at_once() {
    let args = ["--port=70000", "--admin=x", "--servers=a,a,B_c", "--server=d", "--server=e=f", "--verbose"];
    let said = run(&args, &[TOKEN]).unwrap_err();
    for start in [
        "--port: `70000`",
        "--admin: `x`",
        "--servers: `a` is given",
        "--servers: `B_c`",
        "--server: `d`",
        "--server: `f`",
    ] {
        assert!(said.lines().any(|line| line.starts_with(start)), "{start}\n{said}");
    }
    assert!(run(&["--servers=a", "--listen=:1", "--port=2"], &[TOKEN]).is_err(), "two ways to say one thing");
    assert_eq!(
        names(&serve(&["--servers=a", "--servers=b,c", "--verbose", "--verbose=false"])),
        ["a", "b", "c"]
    );
}

#[test]
fn no_server_is_no_gateway() {
    assert!(run(&[], &[TOKEN]).unwrap_err().contains("--servers"));
}

#[test]
fn a_start_can_have_other_ends() {
    assert!(matches!(run(&["--servers=a", "--dry-run"], &[TOKEN]), Ok(Command::DryRun(_))));
    assert!(matches!(run(&["--help"], &[]), Ok(Command::Print(text)) if text.contains("--servers")));
    assert!(matches!(run(&["--version"], &[]), Ok(Command::Print(text)) if text.starts_with("mcp-edge ")));
    // A probe has no token and no servers.
    for args in [
        &["--check-health"][..],
        &["--check-health", "http://127.0.0.1:1/ready"],
        &["--check-health=http://a"],
    ] {
        assert!(matches!(run(args, &[]), Ok(Command::CheckHealth(_))), "{args:?}");
    }
    assert!(run(&["--check-health=ftp://a"], &[]).unwrap_err().starts_with("--check-health: "));
}

#[test]
fn levels_come_from_the_environment() {
    let level = |value| run(&["--servers=a"], &[TOKEN, ("MCP_EDGE_LOG", value)]);
    assert!(
        matches!(level("edge=debug,hyper=info"), Ok(Command::Serve(config)) if config.log.levels.is_some())
    );
    assert!(matches!(level(""), Ok(Command::Serve(config)) if config.log.levels.is_none()));
    assert!(level("edge=loud").unwrap_err().starts_with("MCP_EDGE_LOG: "));
}

#[test]
fn secrets_do_not_show_in_what_is_printed() {
    let file = Written::new("secrets", "servers: {a: {command: [run, --key=hunter2], env: {KEY: hunter3}}}");
    let Ok(Command::Serve(config)) =
        run(&["--config", &file.path()], &[("MCP_GATEWAY_AUTH_TOKEN", "hunter4")])
    else {
        panic!("it is valid")
    };
    assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
}

#[test]
fn threads_are_half_of_the_cores_unless_the_file_says_how_many() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let threads = |text: &str| {
        let file = Written::new("threads", text);
        serve(&["--config", &file.path()]).threads
    };
    assert_eq!(threads("servers: {a: {}}"), cores.div_ceil(2));
    assert_eq!(threads("servers: {a: {}}\nthreads: 3"), 3);
    let wrong = complaints("no-threads", "threads: 0");
    assert!(wrong[0].starts_with("edge.yaml:1: threads: `0` is not a whole number above 0"), "{wrong:?}");
}

#[test]
fn one_thread_polls_busily_where_there_is_a_core_to_spare() {
    let busy_poll = |text: &str| {
        let file = Written::new("busy-poll", &format!("servers: {{a: {{}}}}\n{text}"));
        serve(&["--config", &file.path()]).busy_poll
    };
    let cores = std::thread::available_parallelism().unwrap().get();
    let default = if cores > 1 { Duration::from_micros(50) } else { Duration::ZERO };
    assert_eq!(busy_poll("threads: 1"), default);
    assert_eq!(busy_poll("threads: 2"), Duration::ZERO);
    assert_eq!(busy_poll("threads: 1\nbusy_poll: 0us"), Duration::ZERO);
    assert_eq!(busy_poll("threads: 1\nbusy_poll: 200us"), Duration::from_micros(200));
    assert_eq!(busy_poll("threads: 2\nbusy_poll: 0us"), Duration::ZERO);
    let wrong = complaints("busy-poll-of-two", "threads: 2\nbusy_poll: 50us\nservers: {a: {}}");
    assert_eq!(
        wrong,
        ["busy_poll: only a single thread can poll, and `threads` is 2; leave one of the two out"]
    );
    let wrong = complaints("busy-poll-long", "threads: 1\nbusy_poll: 2ms\nservers: {a: {}}");
    assert_eq!(wrong, ["busy_poll: 2ms would keep a core busy for nothing; use at most 1ms"]);
}

#[test]
fn unknown_keys_are_answered_with_the_nearest() {
    let text = "\
lisen: x
servers:
  time: {adress: 'a:1'}
limits:
  call_timout: 5s
  timeout: 5s
drain: 5s
colour: red
";
    let said = complaints("unknown", text);
    assert_eq!(said[0], "edge.yaml:1: lisen: there is no such key; the nearest is `listen`");
    assert_eq!(
        said[1],
        "edge.yaml:3: servers.time.adress: there is no such key; the nearest is `servers.time.address`"
    );
    assert_eq!(
        said[2],
        "edge.yaml:5: limits.call_timout: there is no such key; the nearest is `limits.call_timeout`"
    );
    assert!(
        said[3].starts_with("edge.yaml:6: limits.timeout: there is no such key; there are `limits.body`, ")
    );
    assert_eq!(said[4], "edge.yaml:7: drain: there is no such key here; it is `limits.drain`");
    assert!(said[5].starts_with("edge.yaml:8: colour: there is no such key; there are `listen`, "));
    assert_eq!(said.len(), 6, "{said:#?}");
}

#[test]
fn wrong_values_are_all_told_at_once_with_their_keys() {
    let text = r#"
listen: 8811
cors: {origins: ["*", app.example.com]}
hosts: ["https://127.0.0.1:21541", 127.0.0.1/]
tls: {cert: a.crt}
auth: {tokens: [{principal: ci}, plain]}
servers:
  Upper: {}
  both: {address: "a:1", command: [x]}
  lone: {env: {KEY: value}}
  time: {isolation: shard, connections: 0, address: [a, "b:1"]}
limits: {body: 4, frame: [1MiB], drain: 5, queue: -1, session_idle: 48h}
"#;
    let said = complaints("wrong", text);
    for (line, start) in [
        ("2: listen", "`8811` is no address to listen on"),
        ("3: cors.origins[0]", "`*` is no origin"),
        ("3: cors.origins[1]", "`app.example.com` is no origin"),
        ("4: hosts[0]", "`https://127.0.0.1:21541` is no name of a host"),
        ("4: hosts[1]", "`127.0.0.1/` is no name of a host"),
        ("5: tls", "both `cert` and `key` belong here"),
        ("6: auth.tokens[0]", "either `env` or `file` must say where the token is"),
        ("6: auth.tokens[1]", "keys with values belong here"),
        ("8: servers.Upper", "`Upper` is not a server name"),
        ("9: servers.both", "a server has either an `address` or a `command`"),
        ("10: servers.lone", "`env` belongs to a `command`"),
        ("11: servers.time.isolation", "`shard` is not one of `auto`, `session`, `principal` and `shared`"),
        ("11: servers.time.connections", "`0` is not a whole number above 0"),
        ("11: servers.time.address[0]", "`a` "),
        ("12: limits.body", "`4` is not a size"),
        ("12: limits.frame", "one value belongs here, not a list"),
        ("12: limits.drain", "`5` is not a duration"),
        ("12: limits.queue", "`-1` is not a whole number"),
    ] {
        let wanted = format!("edge.yaml:{line}: {start}");
        assert!(said.iter().any(|said| said.starts_with(&wanted)), "{wanted}\nis not in\n{said:#?}");
    }
    assert!(said.contains(&"limits.session_idle: 172800s is more than `limits.session_age`, 86400s; lower it, or raise that too".to_owned()), "{said:#?}");
    assert_eq!(said.len(), 19, "{said:#?}");
}

#[test]
fn a_message_fits_into_what_one_principal_may_hold() {
    let limits = |held: &str| format!("limits: {{body: 3MiB, frame: 3MiB, held_bytes: {held}}}\n");
    let said = complaints("held", &limits("3MiB"));
    let wanted = "limits.held_bytes: one principal may have 2359296 bytes of it, so that a message of `limits.frame`, 3145728 bytes, would never fit; raise it, or lower that";
    assert_eq!(said, [wanted]);
    let file = Written::new("fits", &limits("4MiB"));
    run(&["--config", &file.path(), "--servers=time"], &[TOKEN]).unwrap();
}

#[test]
fn values_that_nothing_could_be_counted_with_are_refused() {
    let text = "\
threads: 1025
busy_poll: 18446744073709551615s
limits:
  call_timeout_max: 18446744073709551615s
  drain_delay: 5s
  drain: 8785h
  principal_connections: 1048577
  headers: 8191B
  held_bytes: 17179869183GiB
  session_age: 8784h
  calls: 1048576
";
    let said = complaints("huge", text);
    assert_eq!(
        said,
        [
            "edge.yaml:1: threads: `1025` is too much; use at most 1024",
            "edge.yaml:2: busy_poll: `18446744073709551615s` is too much; use at most 8784h",
            "edge.yaml:4: limits.call_timeout_max: `18446744073709551615s` is too much; use at most 8784h",
            "edge.yaml:6: limits.drain: `8785h` is too much; use at most 8784h",
            "edge.yaml:7: limits.principal_connections: `1048577` is too much; use at most 1048576",
            "edge.yaml:8: limits.headers: 8191 bytes are too few; use at least 8192B",
            "edge.yaml:9: limits.held_bytes: `17179869183GiB` is too much; use at most 1024GiB",
        ]
    );
}

#[test]
fn a_local_client_needs_no_token_and_its_session_no_end() {
    let Ok(Command::Serve(config)) = run(&["--servers=a", "--transport=stdio"], &[]) else {
        panic!("it is valid")
    };
    assert_eq!(config.transport, Transport::Stdio);
    assert_eq!((config.session.age, config.drain.delay), (Duration::MAX, Duration::ZERO));
}
