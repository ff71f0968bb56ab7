//! Processes started ahead of their clients.

use std::io::Write;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Bridge, is_alive, now, pause, read_all, read_line, wait_until};
use std::time::Duration;

#[test]
fn a_waiting_process_is_handed_over_and_replaced() {
    let bridge = Bridge::shell(&["--warm", "2"], "echo ready >&2; echo hello $$; exec cat");
    wait_until("both have started", || bridge.log().matches("] ready").count() == 2);
    let waiting = bridge.servers();
    let mut client = bridge.talk("x\n");
    let pid: i32 = read_line(&mut client).strip_prefix("hello ").expect("greeted").parse().expect("a pid");
    assert!(waiting.contains(&pid), "it had been waiting");
    assert_eq!(read_line(&mut client), "x");
    wait_until("it is replaced", || bridge.servers().len() == 3);
    bridge.wait_for_log("taken pid=");
    drop(client);
    wait_until("two wait again", || !is_alive(pid) && bridge.servers().len() == 2);
}

#[test]
fn spare_serves_a_client_without_the_slow_start() {
    let bridge = Bridge::shell(&["--warm", "1"], "sleep 1; echo ready >&2; exec cat");
    bridge.wait_for_log("] ready");
    let begun = now();
    assert_eq!(read_line(&mut bridge.talk("x\n")), "x");
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[test]
fn clients_beyond_the_spares_are_served() {
    let bridge = Bridge::start(&["--warm", "1", "--max-connections", "5"], &["cat"]);
    let mut clients: Vec<_> = (0..5).map(|_| bridge.talk("x\n")).collect();
    for client in &mut clients {
        assert_eq!(read_line(client), "x");
    }
    assert_eq!(read_all(&mut bridge.talk("x\n")), b"", "those that wait count as processes too");
    assert_eq!(bridge.servers().len(), 5);
}

#[test]
fn a_waiting_process_that_dies_is_replaced_with_backoff() {
    let bridge = Bridge::start(&["--warm", "1"], &["cat"]);
    wait_until("it waits", || bridge.servers().len() == 1);
    let first = bridge.servers()[0];
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("alive");
    wait_until("another waits", || bridge.servers().iter().any(|pid| *pid != first));
    drop(bridge);
    let crashing = Bridge::start(&["--warm", "1"], &["true"]);
    crashing.wait_for_log("keeps crashing");
    pause(Duration::from_secs(2));
    let starts = crashing.log().matches("started").count();
    assert!((5..=10).contains(&starts), "{starts} starts in two seconds");
}

#[test]
fn waiting_processes_stop_with_the_bridge() {
    for stubborn in ["exec cat", "trap '' TERM; echo ready >&2; while :; do sleep 0.05; done"] {
        let mut bridge = Bridge::shell(&["--warm", "3", "--drain", "300ms"], stubborn);
        wait_until("they wait", || bridge.servers().len() >= 3);
        let waiting = bridge.servers();
        bridge.signal(Signal::SIGTERM);
        assert_eq!(bridge.exit_status().code(), Some(0));
        wait_until("they are gone", || !waiting.iter().any(|pid| is_alive(*pid)));
    }
}

/// A spare serves no client, so the drain has nothing to wait for.
#[test]
fn spare_that_ignores_sigterm_does_not_delay_the_exit() {
    let stubborn = "trap '' TERM; echo ready >&2; while :; do sleep 0.05; done";
    let mut bridge = Bridge::shell(&["--warm", "1", "--drain", "10m"], stubborn);
    bridge.wait_for_log("] ready");
    bridge.signal(Signal::SIGTERM);
    assert_eq!(bridge.exit_status().code(), Some(0));
    bridge.wait_for_log("signal=SIGKILL");
}

#[test]
fn orphan_of_a_spare_lives_as_long_as_the_spare() {
    let server =
        "(setsid sh -c 'echo $$ >&2; exec sleep 1000' &); read x; [ \"$x\" = go ] && echo went; exit 0";
    let bridge = Bridge::shell(&["--warm", "1"], server);
    let mut orphan = 0;
    wait_until("it has an orphan", || {
        let log = bridge.log();
        let said = log.lines().find_map(|line| line.strip_prefix("[1] ")?.parse().ok());
        orphan = said.unwrap_or(0);
        orphan != 0
    });
    let mut other = bridge.talk("go\n");
    other.flush().expect("sent");
    assert_eq!(read_all(&mut other), b"went\n");
    wait_until("its orphan ends with it", || !is_alive(orphan));
}

/// A client that crashes its own process beside a healthy one must not give the spares new tries: the bridge starts those by
/// itself.
#[test]
fn crash_of_a_client_does_not_reset_the_backoff_of_spares() {
    let flag = format!("{}/down", crate::cli::tempdir("spares"));
    let server =
        format!("[ -e {flag} ] && exit 1; echo up >&2; read x; [ $x = crash ] && exit 1; echo $x; exec cat");
    let bridge = Bridge::shell(&["--warm", "1"], &server);
    let mut healthy = bridge.talk("well\n");
    assert_eq!(read_line(&mut healthy), "well");
    pause(Duration::from_millis(1_100)); // longer than a process that fails at its start would live
    let mut first = bridge.talk("taken\n"); // takes the spare, which has lived as long
    assert_eq!(read_line(&mut first), "taken");
    let mut second = bridge.connect();
    wait_until("a young spare waits", || bridge.log().matches("] up").count() == 3);
    second.write_all(b"cr").expect("sent"); // takes the young one
    wait_until("the next spare waits", || bridge.log().matches("] up").count() == 4);
    std::fs::write(&flag, "").expect("written");
    let spare = *bridge.servers().last().expect("a spare");
    kill(Pid::from_raw(spare), Signal::SIGKILL).expect("alive");
    bridge.wait_for_log("no start for 200 ms");
    second.write_all(b"ash\n").expect("sent");
    assert_eq!(read_all(&mut second), b"");
    bridge.wait_for_log("no start for 400 ms");
    assert_eq!(bridge.log().matches("no start for 200 ms").count(), 1);
}
