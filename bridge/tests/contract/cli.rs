//! Arguments, environment, exit codes, `--install` and `--check`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use crate::support::{Bridge, binary, read_all, run};

#[test]
fn help_and_version_are_on_stdout_and_exit_0() {
    let (output, _) = run(&["--help"]);
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(output.status.code(), Some(0));
    for option in [
        "--listen",
        "--stdio",
        "--warm",
        "--max-connections",
        "--max-waiting",
        "--first-byte-timeout",
        "--client-timeout",
        "--stop-grace",
        "--drain",
        "--install",
        "--check",
        "--help",
        "--version",
    ] {
        assert!(help.contains(option), "{option}");
    }
    assert!(help.lines().all(|line| line.len() <= 80), "fits a terminal");
    let (output, _) = run(&["--version"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("docker-mcp-bridge 0."));
}

#[test]
fn usage_errors_exit_2_with_a_sentence() {
    for (arguments, part) in [
        (&[][..], "no command"),
        (&["--lisen", ":1", "cat"], "--listen"),
        (&["--listen", "nowhere", "cat"], "`nowhere`"),
        (&["--stop-grace", "soon", "cat"], "`soon`"),
    ] {
        let (output, sentence) = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(sentence.contains(part) && sentence.lines().count() == 1, "{sentence}");
    }
    let output = binary().arg("cat").env("DOCKER_MCP_BRIDGE_DRAIN", "x").output().expect("runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_missing_command_is_127_and_one_that_cannot_run_126() {
    let directory = tempdir("commands");
    let plain = format!("{directory}/plain");
    fs::write(&plain, "").expect("written");
    for (command, code) in [
        ("no-such-server-anywhere", 127),
        ("/no/such/server", 127),
        (plain.as_str(), 126),
        (directory.as_str(), 126),
    ] {
        let (output, sentence) = run(&["--listen", "127.0.0.1:0", command]);
        assert_eq!(output.status.code(), Some(code), "{command}");
        assert!(sentence.contains(command), "{sentence}");
    }
    let output =
        binary().args(["--listen", "127.0.0.1:0", "plain"]).env("PATH", &directory).output().expect("runs");
    assert_eq!(output.status.code(), Some(126), "found in PATH, but not executable");
}

#[test]
fn address_in_use_is_refused_with_a_hint() {
    let bridge = Bridge::start(&[], &["cat"]);
    let (output, sentence) = run(&["--listen", &bridge.address.to_string(), "cat"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence.contains(&bridge.address.to_string()) && sentence.contains("--listen"), "{sentence}");
}

#[test]
fn the_commands_own_arguments_are_untouched() {
    let bridge = Bridge::start(&[], &["printf", "%s\n", "--listen", "--", "a b", "--help"]);
    let output = read_all(&mut bridge.talk("x"));
    assert_eq!(String::from_utf8_lossy(&output), "--listen\n--\na b\n--help\n");
}

#[test]
fn bridge_is_configured_by_the_environment_alone() {
    let mut command = binary();
    command
        .arg("cat")
        .env("DOCKER_MCP_BRIDGE_LISTEN", "127.0.0.1:0")
        .env("DOCKER_MCP_BRIDGE_MAX_CONNECTIONS", "1");
    // What Kubernetes injects for a service of this name must do no harm.
    command
        .env("DOCKER_MCP_BRIDGE_PORT", "tcp://10.0.0.1:4444")
        .env("DOCKER_MCP_BRIDGE_SERVICE_HOST", "10.0.0.1");
    let bridge = Bridge::spawn(command);
    let _first = bridge.talk("x");
    bridge.wait_for_log("started");
    assert_eq!(read_all(&mut bridge.talk("y")), b"", "the second is over max-connections");
}

#[test]
fn install_copies_a_binary_that_runs() {
    let directory = format!("{}/not/yet/there", tempdir("install"));
    for _ in 0..2 {
        let (output, _) = run(&["--install", &directory]);
        assert_eq!(output.status.code(), Some(0));
    }
    let copy = format!("{directory}/docker-mcp-bridge");
    assert_eq!(fs::metadata(&copy).expect("there").permissions().mode() & 0o777, 0o755);
    assert!(Command::new(&copy).arg("--version").stdout(Stdio::null()).status().expect("runs").success());
    assert_eq!(fs::read_dir(&directory).expect("there").count(), 1, "nothing else is left");
    let (output, sentence) = run(&["--install", &copy]);
    assert_eq!(output.status.code(), Some(1), "a file is no directory");
    assert!(sentence.contains(&copy), "{sentence}");
}

#[test]
fn check_says_whether_somebody_listens_and_starts_no_process() {
    let bridge = Bridge::start(&[], &["cat"]);
    let address = bridge.address.to_string();
    assert_eq!(run(&["--check", &address]).0.status.code(), Some(0));
    let output = binary().arg("--check").env("DOCKER_MCP_BRIDGE_LISTEN", &address).output().expect("runs");
    assert_eq!(output.status.code(), Some(0));
    assert!(bridge.servers().is_empty());
    drop(bridge);
    let (output, sentence) = run(&["--check", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence.contains(&address), "{sentence}");
}

/// A fresh directory under the target directory.
pub(crate) fn tempdir(name: &str) -> String {
    let directory = format!("{}/{name}-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).expect("created");
    directory
}
