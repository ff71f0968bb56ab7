//! The stop ladder, groups and orphans: nothing outlives its connection.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Bridge, DATA_PATHS, is_alive, now, read_all, read_line, wait_until};

#[test]
fn the_end_of_the_input_ends_a_server_that_listens_to_it() {
    for path in DATA_PATHS {
        let bridge = Bridge::start(&["--stdio", path, "--stop-grace", "60s"], &["cat"]);
        let open_files = bridge.open_files();
        let mut client = bridge.talk("x\n");
        read_line(&mut client);
        drop(client);
        bridge.wait_for_rest(open_files);
        bridge.wait_for_log("status=0");
    }
}

#[test]
fn a_server_that_ignores_the_end_gets_sigterm_after_the_grace() {
    for path in DATA_PATHS {
        let server = "trap 'echo terminated; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
        let bridge = Bridge::shell(&["--stdio", path, "--stop-grace", "400ms"], server);
        let mut client = bridge.talk("x\n");
        assert_eq!(read_line(&mut client), "ready");
        let begun = now();
        client.shutdown(Shutdown::Write).expect("half closed");
        assert_eq!(read_line(&mut client), "terminated", "{path}: what it says last is delivered");
        assert!(begun.elapsed() >= Duration::from_millis(350), "{path}: {:?}", begun.elapsed());
        assert_eq!(read_all(&mut client), b"");
        bridge.wait_for_log("status=3");
    }
}

#[test]
fn a_server_that_ignores_sigterm_too_is_killed() {
    for path in DATA_PATHS {
        let server = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
        let bridge = Bridge::shell(&["--stdio", path, "--stop-grace", "100ms"], server);
        let open_files = bridge.open_files();
        let mut client = bridge.talk("x\n");
        assert_eq!(read_line(&mut client), "ready");
        drop(client);
        bridge.wait_for_rest(open_files);
        bridge.wait_for_log("signal=SIGKILL");
    }
}

#[test]
fn sigterm_goes_to_the_whole_group() {
    let server = "trap : TERM; sh -c 'trap \"echo child terminated; exit\" TERM; echo ready; while :; do sleep 0.05; done' & wait; wait; sleep 1000";
    let bridge = Bridge::shell(&["--stop-grace", "100ms"], server);
    let mut client = bridge.talk("x\n");
    assert_eq!(read_line(&mut client), "ready");
    client.shutdown(Shutdown::Write).expect("half closed");
    assert_eq!(read_line(&mut client), "child terminated");
    bridge.wait_for_log("] ended"); // killed now, the bridge would leave a process behind
}

#[test]
fn a_server_that_joins_another_group_gets_its_signals_all_the_same() {
    let server = "import os, time\nos.setpgid(0, os.getpgid(os.getppid()))\nprint('ready', flush=True)\n\
                  while True: time.sleep(1)";
    for path in DATA_PATHS {
        let options = ["--stdio", path, "--stop-grace", "100ms"];
        let bridge = Bridge::start(&options, &["python3", "-c", server]);
        let open_files = bridge.open_files();
        let mut client = bridge.talk("x\n");
        assert_eq!(read_line(&mut client), "ready");
        drop(client);
        bridge.wait_for_rest(open_files);
    }
}

#[test]
fn rest_of_the_process_group_ends_with_the_process() {
    for path in DATA_PATHS {
        let bridge = Bridge::shell(&["--stdio", path], "sleep 1000 & sleep 1000 & read x; exit 0");
        let open_files = bridge.open_files();
        let mut client = bridge.connect();
        client.write_all(b"x\n").expect("sent");
        assert_eq!(read_all(&mut client), b"", "{path}");
        drop(client);
        bridge.wait_for_rest(open_files);
    }
}

/// The classic daemon: a new session, and its parent gone.
const DAEMON: &str = "(setsid sh -c 'echo $$; exec sleep 1000' &); read x";

#[test]
fn descendant_that_left_the_group_is_found_by_its_mark() {
    for path in DATA_PATHS {
        let bridge = Bridge::shell(&["--stdio", path], DAEMON);
        let open_files = bridge.open_files();
        let (mut one, mut two) = (bridge.connect(), bridge.connect());
        let daemon = |client: &mut std::net::TcpStream| -> i32 {
            client.write_all(b"x").expect("sent");
            read_line(client).parse().expect("a pid")
        };
        let (first, second) = (daemon(&mut one), daemon(&mut two));
        assert!(is_alive(first) && is_alive(second));
        drop(one);
        wait_until("the first is ended", || !is_alive(first));
        two.write_all(b"still reading").expect("sent");
        assert!(is_alive(second), "{path}: another connection's descendants are left alone");
        drop(two);
        bridge.wait_for_rest(open_files);
    }
}

#[test]
fn chain_of_daemons_is_ended_completely() {
    let server =
        "setsid sh -c 'setsid sh -c \"setsid sleep 1000 & sleep 1000\" & sleep 1000' & read x; exit 0";
    let bridge = Bridge::shell(&[], server);
    let open_files = bridge.open_files();
    let client = bridge.connect();
    (&client).write_all(b"waiting").expect("sent");
    wait_until("all are there", || bridge.servers().len() >= 4);
    drop(client);
    bridge.wait_for_rest(open_files);
}

#[test]
fn unmarked_children_are_left_alone_and_reaped() {
    let server =
        "(env -u DOCKER_MCP_BRIDGE_CONN setsid sh -c 'echo $$; exec sleep 1000 <&- >&- 2>&-' &); read x";
    let bridge = Bridge::shell(&[], server);
    let mut client = bridge.talk("x");
    let stranger: i32 = read_line(&mut client).parse().expect("a pid");
    drop(client);
    bridge.wait_for_log("ended pid=");
    wait_until("the server is gone", || bridge.servers().is_empty());
    assert_eq!(bridge.children(), [stranger], "adopted and alive");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(stranger), Signal::SIGKILL).expect("alive");
    wait_until("reaped", || bridge.children().is_empty());
}

#[test]
fn the_server_does_not_outlive_a_bridge_that_is_killed() {
    for path in DATA_PATHS {
        let bridge = Bridge::start(&["--stdio", path], &["sleep", "1000"]);
        let mut client = bridge.talk("x\n");
        wait_until("it runs", || bridge.servers().len() == 1);
        let server = bridge.servers()[0];
        bridge.signal(Signal::SIGKILL);
        wait_until("the server is gone", || !is_alive(server));
        // A reset is as good an end as any.
        assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    }
}

#[test]
fn a_process_killed_by_a_real_time_signal_is_reaped_like_any_other() {
    let bridge = Bridge::shell(&[], "kill -40 $$");
    let open_files = bridge.open_files();
    assert_eq!(read_all(&mut bridge.talk("x")), b"");
    bridge.wait_for_log("signal=40");
    bridge.wait_for_rest(open_files);
}
