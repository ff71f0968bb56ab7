//! Every bound is hit.

use std::io::Write;
use std::process::Command;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::{
    Bridge, DATA_PATHS, SYSTEM_TICKS, USER_TICKS, binary, now, pause, read_all, read_line, stat, wait_until,
};

#[test]
fn over_max_connections_a_connection_is_closed_at_its_first_byte() {
    for path in DATA_PATHS {
        let bridge = Bridge::start(&["--stdio", path, "--max-connections", "2"], &["cat"]);
        let mut clients = [bridge.talk("x\n"), bridge.talk("x\n")];
        for client in &mut clients {
            read_line(client);
        }
        let mut third = bridge.connect();
        pause(Duration::from_millis(50));
        third.write_all(b"x\n").expect("it may connect");
        assert_eq!(read_all(&mut third), b"", "{path}: an end of file, not a reset");
        assert_eq!(bridge.servers().len(), 2);
        bridge.wait_for_log("max-connections");
        drop(clients);
        wait_until("room again", || bridge.servers().is_empty());
        assert_eq!(read_line(&mut bridge.talk("again\n")), "again");
    }
}

#[test]
fn crash_loop_is_slowed_down_until_the_command_works() {
    for path in DATA_PATHS {
        let flag = format!("{}/works", crate::cli::tempdir(&format!("crash-{path}")));
        let bridge = Bridge::shell(&["--stdio", path], &format!("[ -e {flag} ] && exec cat; exit 1"));
        let begun = now();
        while begun.elapsed() < Duration::from_secs(3) {
            read_all(&mut bridge.talk("x\n"));
            pause(Duration::from_millis(5));
        }
        let starts = bridge.log().matches("started").count();
        assert!((5..=12).contains(&starts), "{path}: {starts} starts in three seconds");
        assert!(bridge.log().contains("keeps crashing"));
        std::fs::write(&flag, "").expect("written");
        wait_until("it is tried again", || read_all_or_line(&mut bridge.talk("back\n")) == "back");
        assert_eq!(read_line(&mut bridge.talk("and stays\n")), "and stays");
    }
}

/// Seen: one client that crashed its server again and again kept all new clients out.
#[test]
fn crashes_beside_a_running_process_refuse_no_client() {
    for path in DATA_PATHS {
        let server = "read x; [ $x = crash ] && exit 1; echo $x; exec cat";
        let bridge = Bridge::shell(&["--stdio", path], server);
        let mut healthy = bridge.talk("well\n");
        assert_eq!(read_line(&mut healthy), "well");
        pause(Duration::from_millis(1_100)); // longer than a process that fails at its start would live
        for _ in 0..8 {
            assert_eq!(read_all(&mut bridge.talk("crash\n")), b"");
        }
        wait_until("all have crashed", || bridge.log().matches("status=1").count() == 8);
        assert_eq!(read_line(&mut bridge.talk("other\n")), "other", "{path}");
    }
}

/// Closing a connection whose client still sends resets it, and what it has not taken yet is lost.
#[test]
fn connection_over_max_waiting_keeps_clients_that_still_read_output() {
    for path in DATA_PATHS {
        let server = "head -c 60000 /dev/zero; exit 0";
        let bridge = Bridge::shell(&["--stdio", path, "--max-waiting", "2"], server);
        let mut client = bridge.connect();
        setsockopt(&client, sockopt::RcvBuf, &4096).expect("set");
        client.write_all(b"x\n").expect("sent");
        bridge.wait_for_log("ended pid=");
        let mut flood: Vec<_> = (0..10).map(|_| bridge.connect()).collect();
        assert_eq!(read_all(&mut flood[0]), b"", "{path}: the oldest that has sent nothing is closed");
        client.write_all(b"more\n").expect("sent");
        assert_eq!(read_all(&mut client).len(), 60_000, "{path}");
    }
}

fn read_all_or_line(client: &mut std::net::TcpStream) -> String {
    let line = read_line(client);
    let _ = client.shutdown(std::net::Shutdown::Both);
    line
}

#[test]
fn command_that_exits_with_0_is_not_a_crash() {
    let bridge = Bridge::start(&[], &["true"]);
    for _ in 0..30 {
        assert_eq!(read_all(&mut bridge.talk("x\n")), b"");
    }
    wait_until("all have run", || bridge.log().matches("started").count() == 30);
}

#[test]
fn the_bounds_shrink_to_the_limit_of_open_files() {
    for path in DATA_PATHS {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 40; exec \"$0\" --listen 127.0.0.1:0 --stdio \"$1\" cat"]);
        command.arg(binary().get_program()).arg(path);
        let bridge = Bridge::spawn(command);
        bridge.wait_for_log("the limit of open files allows");
        let silent: Vec<_> = (0..100).map(|_| bridge.connect()).collect();
        let mut talking: Vec<_> = (0..30).map(|_| bridge.talk("x\n")).collect();
        let served = talking.iter_mut().map(read_line).filter(|line| line == "x").count();
        assert!((2..30).contains(&served), "{path}: {served}");
        assert!(!bridge.log().contains("cannot"), "{path}: it never ran out: {}", bridge.log());
        drop((silent, talking));
        wait_until("all gone", || bridge.servers().is_empty());
        assert_eq!(read_line(&mut bridge.talk("again\n")), "again");
    }
}

/// The limit is taken away from a running bridge, which no bound of its own can foresee.
#[test]
fn bridge_without_descriptors_does_not_spin_and_recovers() {
    let bridge = Bridge::start(&[], &["cat"]);
    let limit = |soft: usize| {
        let pid = bridge.pid().to_string();
        let status = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={soft}:")]).status();
        assert!(status.expect("util-linux is there").success());
    };
    limit(bridge.first_free_file() + 2);
    let mut clients: Vec<_> = (0..4).map(|_| bridge.connect()).collect();
    bridge.wait_for_log("cannot accept");
    let ticks =
        || stat(bridge.pid(), USER_TICKS).expect("alive") + stat(bridge.pid(), SYSTEM_TICKS).expect("alive");
    let before = ticks();
    pause(Duration::from_millis(500));
    assert!(ticks() - before < 10, "it does not spin");
    if let Some(client) = clients.last_mut() {
        client.write_all(b"x\n").expect("sent");
    }
    limit(1_000);
    drop(clients);
    wait_until("it serves again", || read_all_or_line(&mut bridge.talk("again\n")) == "again");
}

#[test]
fn a_start_without_descriptors_closes_the_connection_and_counts_as_a_crash() {
    let bridge = Bridge::start(&[], &["cat"]);
    // How many are open at rest depends on what the bridge has inherited.
    let at_rest = bridge.open_files();
    let mut client = bridge.connect();
    wait_until("accepted", || bridge.open_files() > at_rest);
    let pid = bridge.pid().to_string();
    let soft = format!("--nofile={}:", bridge.first_free_file() + 1);
    assert!(Command::new("prlimit").args(["--pid", &pid, &soft]).status().expect("there").success());
    client.write_all(b"x\n").expect("sent");
    assert_eq!(read_all(&mut client), b"", "closed, not left hanging");
    bridge.wait_for_log("cannot start `cat`");
}
