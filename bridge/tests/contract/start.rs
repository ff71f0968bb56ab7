//! One connection, one process, at the first byte and not before.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Bridge, DATA_PATHS, GROUP, binary, now, read_all, read_line, stat, wait_until};

#[test]
fn ten_thousand_connects_that_send_nothing_start_no_process() {
    let bridge = Bridge::start(&["--max-waiting", "100"], &["cat"]);
    let open_files = bridge.open_files();
    let mut open: Vec<TcpStream> = Vec::new();
    for round in 0..10_000 {
        let client = bridge.connect();
        // A quarter hang up at once, as probes do; the others stay as long as they may.
        if round % 4 != 0 {
            open.push(client);
        }
        if open.len() > 1_000 {
            open.drain(..500);
        }
        if round % 1_000 == 0 {
            assert!(bridge.open_files() <= open_files + 100 + 64, "waiting sockets are bounded");
        }
    }
    // The bridge has seen them all when it serves one that came after them.
    let mut last = bridge.talk("hello\n");
    assert_eq!(read_line(&mut last), "hello");
    bridge.wait_for_log("[10001] started");
    assert_eq!(bridge.log().matches("started").count(), 1, "one process in all");
    drop((open, last));
    bridge.wait_for_rest(open_files);
}

#[test]
fn connection_over_max_waiting_closes_the_oldest() {
    let bridge = Bridge::start(&["--max-waiting", "3"], &["cat"]);
    let mut clients: Vec<TcpStream> = (0..4).map(|_| bridge.connect()).collect();
    assert_eq!(clients[0].read(&mut [0]).expect("an end of file"), 0);
    for client in &mut clients[1..] {
        client.write_all(b"x\n").expect("sent");
        assert_eq!(read_line(client), "x");
    }
}

#[test]
fn client_that_sends_nothing_is_closed_after_the_timeout() {
    let bridge = Bridge::start(&["--first-byte-timeout", "300ms"], &["cat"]);
    let (mut silent, mut talking) = (bridge.connect(), bridge.talk("x\n"));
    let begun = now();
    assert_eq!(silent.read(&mut [0]).expect("an end of file"), 0);
    assert!(begun.elapsed() >= Duration::from_millis(250));
    assert_eq!(read_line(&mut talking), "x");
    talking.write_all(b"still here\n").expect("sent");
    assert_eq!(read_line(&mut talking), "still here");
}

#[test]
fn each_connection_has_a_process_in_a_group_of_its_own() {
    let bridge = Bridge::start(&[], &["cat"]);
    let clients = [bridge.talk("x\n"), bridge.talk("y\n")];
    wait_until("two processes", || bridge.servers().len() == 2);
    for pid in bridge.servers() {
        assert_eq!(stat(pid, GROUP), Some(i64::from(pid)));
    }
    drop(clients);
    wait_until("none", || bridge.servers().is_empty());
}

#[test]
fn a_handed_off_socket_is_stdin_and_stdout_and_blocks() {
    for path in DATA_PATHS {
        let bridge = Bridge::start(&["--stdio", path], &["cat"]);
        let mut client = bridge.talk("x\n");
        read_line(&mut client);
        let pid = bridge.servers()[0];
        let target =
            |fd: u8| fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("open").display().to_string();
        let kind = if path == "handoff" { "socket:" } else { "pipe:" };
        assert!(target(0).starts_with(kind) && target(1).starts_with(kind), "{path}: {}", target(0));
        assert_eq!(target(0) == target(1), path == "handoff");
        for fd in [0, 1] {
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).expect("open");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("there").trim();
            assert_eq!(i64::from_str_radix(flags, 8).expect("octal") & 0o4000, 0, "O_NONBLOCK is clear");
        }
        let inherited = links(std::process::id().cast_signed());
        let leaked: Vec<String> =
            links(pid).split_off(3).into_iter().filter(|link| !inherited.contains(link)).collect();
        assert!(leaked.is_empty(), "only what the bridge was itself started with: {leaked:?}");
    }
}

#[test]
fn process_starts_with_no_signal_blocked_and_the_original_file_limit() {
    let mut command = std::process::Command::new("sh");
    command.args([
        "-c",
        "ulimit -Sn 123; trap '' CHLD; exec \"$0\" --listen 127.0.0.1:0 sh -c 'ulimit -Sn; exec cat'",
    ]);
    let command = command.arg(binary().get_program());
    let bridge = Bridge::spawn(std::mem::replace(command, std::process::Command::new("true")));
    let mut client = bridge.talk("x\n");
    assert_eq!(read_line(&mut client), "123", "its limit of open files is the bridge's original one");
    assert_eq!(read_line(&mut client), "x");
    let status = fs::read_to_string(format!("/proc/{}/status", bridge.servers()[0])).expect("alive");
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("there");
        u64::from_str_radix(line.trim(), 16).expect("hexadecimal")
    };
    let standard = |signals: u64| signals & 0x7fff_ffff; // some machines start everything with real-time ones ignored
    assert_eq!((set("SigBlk:"), standard(set("SigIgn:"))), (0, 0), "no signal is blocked or ignored");
}

#[test]
fn bash_on_a_socket_does_not_run_bashrc() {
    let shlvl = |inherited: Option<&str>, path: &str| {
        let mut command = binary();
        command.args(["--listen", "127.0.0.1:0", "--stdio", path, "--", "/usr/bin/env"]);
        command.env_remove("SHLVL");
        if let Some(level) = inherited {
            command.env("SHLVL", level);
        }
        let bridge = Bridge::spawn(command);
        let output = String::from_utf8(read_all(&mut bridge.talk("x"))).expect("UTF-8");
        output.lines().find_map(|line| line.strip_prefix("SHLVL=").map(str::to_owned))
    };
    assert_eq!(shlvl(None, "handoff").as_deref(), Some("1"));
    assert_eq!(shlvl(Some("4"), "handoff").as_deref(), Some("4"));
    assert_eq!(shlvl(None, "pipe"), None, "on pipes there is nothing to tell");
}

/// What the descriptors of a process stand for, the standard ones first.
fn links(pid: i32) -> Vec<String> {
    let directory = format!("/proc/{pid}/fd");
    let mut fds: Vec<u32> = fs::read_dir(&directory)
        .expect("alive")
        .flatten()
        .filter_map(|fd| fd.file_name().to_str()?.parse().ok())
        .collect();
    fds.sort_unstable();
    let link =
        |fd: &u32| fs::read_link(format!("{directory}/{fd}")).ok().map(|link| link.display().to_string());
    fds.iter().filter_map(link).collect()
}
