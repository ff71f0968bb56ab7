//! Clients that reset or vanish.

use std::fs;
use std::io::Write;
use std::net::TcpStream;

use nix::libc::linger;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;

use crate::support::{Bridge, DATA_PATHS, read_line, resident_kib, wait_until};

fn reset(client: TcpStream) {
    setsockopt(&client, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 }).expect("set");
    drop(client);
}

#[test]
fn a_reset_is_noticed_while_the_process_is_busy() {
    for path in DATA_PATHS {
        let bridge = Bridge::start(&["--stdio", path, "--stop-grace", "100ms"], &["sleep", "1000"]);
        let open_files = bridge.open_files();
        let client = bridge.talk("x\n");
        wait_until("it runs", || bridge.servers().len() == 1);
        reset(client);
        bridge.wait_for_rest(open_files);
    }
}

#[test]
fn a_reset_is_noticed_while_output_is_blocked() {
    for path in DATA_PATHS {
        let server = "trap '' TERM; exec cat /dev/zero";
        let bridge = Bridge::shell(&["--stdio", path, "--stop-grace", "100ms"], server);
        let open_files = bridge.open_files();
        let mut client = bridge.talk("x\n");
        std::io::Read::read_exact(&mut client, &mut [0; 1_000]).expect("output");
        reset(client);
        bridge.wait_for_rest(open_files);
    }
}

#[test]
fn thousand_disconnects_during_calls_leak_nothing() {
    const DISCONNECTS: usize = 1_000;
    for path in DATA_PATHS {
        let options = ["--stdio", path, "--stop-grace", "100ms", "--max-connections", "64"];
        let bridge = Bridge::shell(&options, "echo ready; sleep 1000 & wait");
        let open_files = bridge.open_files();
        for round in 0..DISCONNECTS {
            wait_until("a process is free", || bridge.children().len() < 48);
            let mut client = bridge.talk("{\"method\":\"tools/call\"}\n");
            assert_eq!(read_line(&mut client), "ready");
            if round % 2 == 0 { drop(client) } else { reset(client) }
        }
        bridge.wait_for_rest(open_files);
        wait_until("all are logged", || bridge.log().matches("started").count() == DISCONNECTS);
    }
}

#[test]
fn two_thousand_connections_leak_nothing() {
    let bridge = Bridge::start(&["--stop-grace", "100ms"], &["cat"]);
    let open_files = bridge.open_files();
    let mut settled = 0;
    for round in 0..2_000 {
        let mut client = bridge.talk("x\n");
        assert_eq!(read_line(&mut client), "x");
        match round % 4 {
            0 => reset(client),
            1 => {
                for server in bridge.children() {
                    // It may have ended since: the connections before this one end in the background.
                    let _ = kill(Pid::from_raw(server), Signal::SIGKILL);
                }
            }
            _ => drop(client),
        }
        if round == 200 {
            bridge.wait_for_rest(open_files);
            settled = resident_kib(bridge.pid());
        }
    }
    bridge.wait_for_rest(open_files);
    let resident = resident_kib(bridge.pid());
    assert!(resident <= settled + 256, "{settled} KiB became {resident} KiB");
}

/// The window stays closed for longer than TCP_USER_TIMEOUT: the client is as good as gone.
#[test]
fn client_that_acknowledges_nothing_is_dropped() {
    for path in DATA_PATHS {
        let options = ["--stdio", path, "--client-timeout", "4s", "--stop-grace", "100ms"];
        let bridge = Bridge::start(&options, &["cat", "/dev/zero"]);
        let open_files = bridge.open_files();
        let client = bridge.talk("x\n");
        wait_until("it runs", || bridge.servers().len() == 1);
        bridge.wait_for_rest(open_files);
        drop(client);
    }
}

/// A client that disappears silently is only found by keep-alive probes; the kernel shows their timer.
#[test]
fn silent_client_gets_keep_alive_probes() {
    for path in DATA_PATHS {
        let bridge = Bridge::start(&["--stdio", path, "--client-timeout", "40s"], &["cat"]);
        let mut client = bridge.talk("x\n");
        assert_eq!(read_line(&mut client), "x");
        let (local, peer) = (bridge.address.port(), client.local_addr().expect("connected").port());
        wait_until("a keep-alive timer of at most ten seconds", || {
            keepalive_ticks(local, peer).is_some_and(|ticks| ticks > 0 && ticks <= 1_000)
        });
        client.write_all(b"y\n").expect("sent");
        assert_eq!(read_line(&mut client), "y");
    }
}

/// What is left of the keep-alive timer, in hundredths of a second: /proc/net/tcp, `tr:tm->when` with tr = 2.
fn keepalive_ticks(local: u16, peer: u16) -> Option<u64> {
    let table = fs::read_to_string("/proc/net/tcp").expect("mounted");
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = |index: usize| u16::from_str_radix(fields.get(index)?.rsplit_once(':')?.1, 16).ok();
        if port(1) != Some(local) || port(2) != Some(peer) {
            return None;
        }
        u64::from_str_radix(fields.get(5)?.strip_prefix("02:")?, 16).ok()
    })
}
