//! SIGTERM and SIGINT, also as PID 1.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};

use crate::support::{Bridge, DATA_PATHS, binary, is_alive, now, read_all, read_line, wait_until};

#[test]
fn an_idle_bridge_stops_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut bridge = Bridge::start(&["--drain", "60s"], &["cat"]);
        let begun = now();
        bridge.signal(signal);
        assert_eq!(bridge.exit_status().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn drain_serves_open_connections_and_accepts_no_more() {
    for path in DATA_PATHS {
        let mut bridge = Bridge::start(&["--stdio", path, "--drain", "60s"], &["cat"]);
        let mut client = bridge.talk("x\n");
        assert_eq!(read_line(&mut client), "x");
        let mut silent = bridge.connect();
        bridge.signal(Signal::SIGTERM);
        assert!(matches!(silent.read(&mut [0]), Ok(0) | Err(_)), "who said nothing is closed");
        wait_until("nobody is let in", || TcpStream::connect(bridge.address).is_err());
        client.write_all(b"still served\n").expect("sent");
        assert_eq!(read_line(&mut client), "still served");
        drop(client);
        assert_eq!(bridge.exit_status().code(), Some(0));
    }
}

#[test]
fn drain_that_times_out_stops_all_processes() {
    for path in DATA_PATHS {
        let polite = "cat >/dev/null; echo goodbye";
        let options = ["--stdio", path, "--drain", "200ms", "--stop-grace", "30s"];
        let mut bridge = Bridge::shell(&options, polite);
        let mut client = bridge.talk("x\n");
        bridge.wait_for_log("started");
        bridge.signal(Signal::SIGTERM);
        assert_eq!(read_all(&mut client), b"goodbye\n", "{path}: its input ends, its output is delivered");
        drop(client);
        assert_eq!(bridge.exit_status().code(), Some(0));
    }
}

#[test]
fn process_that_ignores_sigterm_does_not_delay_the_exit() {
    for path in DATA_PATHS {
        let stubborn = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
        let options = ["--stdio", path, "--drain", "100ms", "--stop-grace", "100ms"];
        let mut bridge = Bridge::shell(&options, stubborn);
        let mut client = bridge.talk("x\n");
        assert_eq!(read_line(&mut client), "ready");
        let servers = bridge.servers();
        bridge.signal(Signal::SIGTERM);
        assert_eq!(read_all(&mut client), b"");
        drop(client);
        assert_eq!(bridge.exit_status().code(), Some(0));
        assert!(!servers.into_iter().any(is_alive));
    }
}

/// Seen: at the end of the ladder such a bridge spun for ever and handled no further signal.
#[test]
fn client_that_reads_nothing_does_not_delay_the_exit() {
    // It leaves with its pipe full; what is in there fits into no window of this client's.
    let flood = "import os, sys, time\nsys.stdin.readline()\nos.set_blocking(1, False)\nstuck = 0\nwhile stuck < 20:\n\
                 \ttry:\n\t\tos.write(1, b'z' * 65536)\n\t\tstuck = 0\n\
                 \texcept BlockingIOError:\n\t\tstuck += 1\n\t\ttime.sleep(0.01)\nos._exit(0)";
    let mut bridge = Bridge::start(&["--drain", "0s", "--stop-grace", "100ms"], &["python3", "-c", flood]);
    let mut client = bridge.connect();
    setsockopt(&client, sockopt::RcvBuf, &4096).expect("set");
    client.write_all(b"x\n").expect("sent");
    bridge.wait_for_log("ended");
    bridge.signal(Signal::SIGTERM);
    assert_eq!(bridge.exit_status().code(), Some(0));
    // Its last words are in the pipe; the thread that reads them may be later than its exit.
    bridge.wait_for_log("leaving 0 processes that outlive SIGKILL and 1 clients that take nothing");
    drop(client);
}

/// Seen: the bridge left while the orphan that it had just killed still had children of its own.
#[test]
fn drain_with_an_orphan_that_has_children_ends_them_before_the_exit() {
    for path in DATA_PATHS {
        // What `setsid bash` starts never belongs to the server's group, and becomes the bridge's child only when bash ends.
        let server = "setsid bash -c 'sleep 1000 & sleep 1000; :' & cat";
        let mut bridge = Bridge::shell(&["--stdio", path, "--drain", "100ms"], server);
        let mut client = bridge.talk("x\n");
        assert_eq!(read_line(&mut client), "x");
        wait_until("all have started", || bridge.servers().len() == 5);
        let servers = bridge.servers();
        bridge.signal(Signal::SIGTERM);
        assert_eq!(read_all(&mut client), b"");
        drop(client);
        assert_eq!(bridge.exit_status().code(), Some(0));
        let left: Vec<i32> = servers.into_iter().filter(|pid| is_alive(*pid)).collect();
        assert!(left.is_empty(), "{path}: {left:?} outlive the bridge");
    }
}

#[test]
fn second_signal_after_the_echo_ends_the_drain() {
    let mut bridge = Bridge::start(&["--drain", "1h"], &["cat"]);
    let mut client = bridge.talk("x\n");
    assert_eq!(read_line(&mut client), "x");
    bridge.signal(Signal::SIGINT);
    bridge.wait_for_log("draining");
    wait_until("a signal past the echo ends it", || {
        bridge.signal(Signal::SIGINT);
        bridge.log().contains("] ended pid=")
    });
    assert_eq!(read_all(&mut client), b"");
    drop(client);
    assert_eq!(bridge.exit_status().code(), Some(0));
}

/// A terminal's Ctrl-C reaches every process of its group, and npm, uv and make forward it once more.
#[test]
fn signal_repeated_at_once_does_not_end_the_drain() {
    let mut bridge = Bridge::start(&["--drain", "1h"], &["cat"]);
    let mut client = bridge.talk("x\n");
    assert_eq!(read_line(&mut client), "x");
    // Of one signal the kernel would keep only one pending.
    bridge.signal(Signal::SIGINT);
    bridge.signal(Signal::SIGTERM);
    for line in ["one", "two"] {
        client.write_all(format!("{line}\n").as_bytes()).expect("sent");
        assert_eq!(read_line(&mut client), line, "the drain goes on");
    }
    drop(client);
    assert_eq!(bridge.exit_status().code(), Some(0));
}

/// In a PID namespace of its own, as in a container: signals without a handler are ignored there, and every orphan
/// of the container is the bridge's to reap.
#[test]
fn as_pid_1_it_stops_and_reaps() {
    let unshare = ["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"];
    if !Command::new("unshare").args(unshare).arg("true").status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: this machine allows no PID namespaces");
        return;
    }
    let mut command = Command::new("unshare");
    command.args(unshare).arg(binary().get_program()).args([
        "--listen",
        "127.0.0.1:0",
        "--drain",
        "60s",
        "sh",
        "-c",
    ]);
    command
        .arg("read x; [ $x = stop ] && kill -TERM 1; (setsid sh -c 'exit 7' &); echo pid 1 is $PPID; read x");
    let mut bridge = Bridge::spawn(command);
    let mut client = bridge.talk("go\n");
    assert_eq!(read_line(&mut client), "pid 1 is 1");
    let pid_1 = bridge.children()[0];
    let zombies = || {
        let children =
            std::fs::read_to_string(format!("/proc/{pid_1}/task/{pid_1}/children")).expect("alive");
        children.split_ascii_whitespace().count()
    };
    wait_until("only the server is left", || zombies() == 1);
    drop(client);
    wait_until("nobody is left", || zombies() == 0);
    let mut stopper = bridge.talk("stop\n");
    read_line(&mut stopper);
    drop(stopper);
    assert_eq!(bridge.exit_status().code(), Some(0));
}
