//! What the command line and the environment mean.

use super::*;

fn parse_words(words: &[&str], environment: &[(&str, &str)]) -> Result<Action, String> {
    parse(
        words.iter().map(OsString::from),
        environment.iter().map(|(name, value)| (name.into(), value.into())),
    )
    .map_err(|failure| failure.to_string())
}

fn settings(words: &[&str], environment: &[(&str, &str)]) -> Settings {
    match parse_words(words, environment) {
        Ok(Action::Serve(settings)) => settings,
        other => panic!("expected to serve: {other:?}"),
    }
}

fn refusal(words: &[&str], environment: &[(&str, &str)]) -> String {
    parse_words(words, environment).expect_err("refused")
}

#[test]
fn the_first_word_is_the_command_and_what_follows_is_untouched() {
    let settings = settings(&["--drain", "1s", "npx", "-y", "--listen", "--", "x=1"], &[]);
    assert_eq!(settings.command, "npx");
    assert_eq!(settings.arguments, ["-y", "--listen", "--", "x=1"]);
    assert_eq!(settings.drain, Duration::from_secs(1));
    assert_eq!(settings.listen, [Address::Any(4444)]);
}

#[test]
fn two_dashes_end_the_options() {
    let settings = settings(&["--", "--weird", "a"], &[]);
    assert_eq!((settings.command, settings.arguments), ("--weird".into(), vec!["a".into()]));
}

#[test]
fn every_option_has_a_variable_that_gives_way_to_it() {
    let environment = [("DOCKER_MCP_BRIDGE_MAX_WAITING", "7"), ("DOCKER_MCP_BRIDGE_STDIO", "handoff")];
    let both = settings(&["--max-waiting=9", "cat"], &environment);
    assert_eq!((both.max_waiting, both.data_path), (9, DataPath::Handoff));
    assert_eq!(settings(&["cat"], &environment).max_waiting, 7);
    for spec in OPTIONS {
        let variable = variable_of(spec.name);
        assert!(option_of(OsStr::new(&variable)).is_some());
        // Kubernetes injects such names for every service of the namespace.
        assert!(!variable.ends_with("_PORT") && !variable.contains("_SERVICE_"), "{variable}");
    }
}

#[test]
fn listen_is_repeatable_and_a_list_in_the_environment() {
    let two = [Address::Tcp(([127, 0, 0, 1], 1).into()), Address::Unix("/a".into())];
    assert_eq!(settings(&["--listen", "127.0.0.1:1", "--listen=unix:/a", "cat"], &[]).listen, two);
    assert_eq!(settings(&["cat"], &[("DOCKER_MCP_BRIDGE_LISTEN", "127.0.0.1:1, unix:/a")]).listen, two);
    assert_eq!(settings(&["cat"], &[("DOCKER_MCP_BRIDGE_LISTEN", "")]).listen, [Address::DEFAULT]);
}

#[test]
fn foreign_variables_are_left_alone() {
    let injected =
        [("DOCKER_MCP_BRIDGE_PORT", "tcp://10.0.0.1:4444"), ("DOCKER_MCP_BRIDGE_SERVICE_HOST", "x")];
    assert_eq!(settings(&["cat"], &injected).listen, [Address::DEFAULT]);
}

#[test]
fn check_asks_the_address_the_bridge_listens_on() {
    assert_eq!(parse_words(&["--check"], &[]), Ok(Action::Check(Address::Any(4444))));
    assert_eq!(parse_words(&["--check", ":1"], &[]), Ok(Action::Check(Address::Any(1))));
    assert_eq!(parse_words(&["--check=:1"], &[]), Ok(Action::Check(Address::Any(1))));
    let listen = [("DOCKER_MCP_BRIDGE_LISTEN", "unix:/s")];
    assert_eq!(parse_words(&["--check"], &listen), Ok(Action::Check(Address::Unix("/s".into()))));
}

#[test]
fn install_takes_a_directory_and_no_command() {
    assert_eq!(parse_words(&["--install", "/shared"], &[]), Ok(Action::Install("/shared".into())));
    assert!(refusal(&["--install", "/shared", "cat"], &[]).contains("no command"));
}

#[test]
fn refusals_name_the_option_its_variable_and_the_value() {
    assert!(refusal(&[], &[]).contains("no command"));
    assert!(refusal(&["--drian", "1"], &[]).contains("did you mean --drain?"));
    assert!(refusal(&["-x"], &[]).contains("--help"));
    assert!(refusal(&["--drain"], &[]).contains("--drain needs a value"));
    assert!(refusal(&["--drain=1", "--drain=2", "cat"], &[]).contains("twice"));
    assert!(refusal(&["--stop-grace", "soon", "cat"], &[]).contains("`soon`"));
    assert!(refusal(&["--client-timeout", "1s", "cat"], &[]).contains("at least 4s"));
    let variable = [("DOCKER_MCP_BRIDGE_MAX_CONNECTIONS", "0")];
    assert!(refusal(&["cat"], &variable).contains("DOCKER_MCP_BRIDGE_MAX_CONNECTIONS"));
}

#[test]
fn pipes_are_the_default_and_what_processes_started_ahead_need() {
    assert_eq!(settings(&["cat"], &[]).data_path, DataPath::Pipe);
    assert_eq!(settings(&["--stdio", "handoff", "cat"], &[]).data_path, DataPath::Handoff);
    assert_eq!(settings(&["--warm", "2", "--stdio", "pipe", "cat"], &[]).warm, 2);
    assert!(refusal(&["--warm=1", "--stdio=handoff", "cat"], &[]).contains("--stdio pipe"));
}

#[test]
fn durations_have_units_and_an_end() {
    for (text, millis) in [("500ms", 500), ("3", 3_000), ("3s", 3_000), ("2m", 120_000), ("1h", 3_600_000)] {
        assert_eq!(read_duration(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for text in ["", "s", "1d", "-1s", "1.5s", "25h", "99999999999999999999s", "18446744073709551615m"] {
        assert_eq!(read_duration(text), None, "{text}");
    }
}
