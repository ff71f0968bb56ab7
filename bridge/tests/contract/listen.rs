//! Where it listens.

use std::fs;
use std::io::Write;
use std::net::{Ipv6Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, socket};

use crate::cli::tempdir;
use crate::support::{Bridge, DATA_PATHS, binary, connect, read_line, run, wait_until};

fn listening_on(addresses: &[&str]) -> Bridge {
    let mut command = binary();
    for address in addresses {
        command.args(["--listen", address]);
    }
    command.arg("cat");
    Bridge::spawn(command)
}

#[test]
fn a_port_alone_takes_both_families_on_one_socket() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return; // a machine without IPv6; the fallback has a test of its own beside the code
    }
    let bridge = listening_on(&[":0"]);
    for host in ["127.0.0.1", "[::1]"] {
        let address = format!("{host}:{}", bridge.address.port());
        let mut client = connect(address.parse().expect("an address"));
        client.write_all(b"hello\n").expect("sent");
        assert_eq!(read_line(&mut client), "hello");
    }
}

#[test]
fn a_unix_socket_serves_is_shared_with_the_group_and_goes_with_the_bridge() {
    let path = format!("{}/socket", tempdir("unix"));
    let address = format!("unix:{path}");
    let mut bridge = listening_on(&[&address]);
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o660);
    let mut client = UnixStream::connect(&path).expect("connects");
    client.write_all(b"hello\n").expect("sent");
    assert_eq!(read_line(&mut client), "hello");
    assert_eq!(run(&["--check", &address]).0.status.code(), Some(0));
    let (output, sentence) = run(&["--listen", &address, "cat"]);
    assert_eq!(output.status.code(), Some(1), "a socket somebody listens on is not taken away");
    assert!(sentence.contains(&path), "{sentence}");
    drop(client);
    bridge.signal(Signal::SIGTERM);
    bridge.exit_status();
    assert!(!fs::exists(&path).expect("known"));
}

#[test]
fn an_abandoned_unix_socket_is_replaced_and_a_file_is_not() {
    let directory = tempdir("abandoned");
    let (path, file) = (format!("{directory}/socket"), format!("{directory}/file"));
    let address = format!("unix:{path}");
    drop(listening_on(&[&address])); // killed outright: its socket stays behind
    assert!(fs::exists(&path).expect("known"));
    let bridge = listening_on(&[&address]);
    assert!(UnixStream::connect(&path).is_ok());
    drop(bridge);
    fs::write(&file, "precious").expect("written");
    let (output, _) = run(&["--listen", &format!("unix:{file}"), "cat"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(fs::read_to_string(&file).expect("still there"), "precious");
}

/// Seen: both waited for ever for room in the backlog.
#[test]
fn a_unix_socket_whose_owner_does_not_accept_is_waited_for_no_longer_than_a_moment() {
    let path = format!("{}/socket", tempdir("full"));
    let owner =
        socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(owner.as_raw_fd(), &UnixAddr::new(path.as_str()).expect("short")).expect("bound");
    nix::sys::socket::listen(&owner, Backlog::new(0).expect("small")).expect("listens");
    let _fills_the_backlog = UnixStream::connect(&path).expect("connects");
    let address = format!("unix:{path}");
    let (output, sentence) = run(&["--check", &address]);
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence.contains("timed out"), "{sentence}");
    let (output, sentence) = run(&["--listen", &address, "cat"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(sentence.contains("in use"), "{sentence}");
}

/// A unix socket has no FIN: when the client closes, epoll reports a hang-up while its last bytes are still unread.
#[test]
fn what_a_client_of_a_unix_socket_said_before_it_closed_is_delivered() {
    for path_of_data in DATA_PATHS {
        let path = format!("{}/socket", tempdir(&format!("closed-{path_of_data}")));
        let mut command = binary();
        command.args(["--listen", &format!("unix:{path}"), "--stdio", path_of_data, "--"]);
        // It begins to read when the client is long gone, and what it has read is more than pipes and sockets hold.
        command.args(["sh", "-c", "read -r first; sleep 0.3; echo read $first $(wc -c) >&2"]);
        let bridge = Bridge::spawn(command);
        let mut client = UnixStream::connect(&path).expect("connects");
        client.write_all(b"one\n").expect("sent");
        client.write_all(&vec![b'x'; 600_000]).expect("sent");
        drop(client);
        bridge.wait_for_log("read one 600000");
        // Sent and closed before the bridge has read.
        for _ in 0..10 {
            let mut client = UnixStream::connect(&path).expect("connects");
            client.write_all(b"two\n").expect("sent");
        }
        wait_until("all were served", || bridge.log().matches("read two 0").count() == 10);
    }
}

#[test]
fn listen_is_repeatable() {
    let path = format!("{}/socket", tempdir("repeat"));
    let bridge = listening_on(&["127.0.0.1:0", &format!("unix:{path}"), "127.0.0.1:0"]);
    let mut unix = UnixStream::connect(&path).expect("connects");
    let mut tcp = bridge.connect();
    for client in [&mut unix as &mut dyn Write, &mut tcp] {
        client.write_all(b"hello\n").expect("sent");
    }
    assert_eq!((read_line(&mut unix), read_line(&mut tcp)), ("hello".into(), "hello".into()));
    let log = bridge.log();
    assert_eq!(log.lines().next().expect("a line").matches(", ").count(), 2, "{log}");
}
