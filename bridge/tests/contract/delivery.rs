//! No byte is lost, every end of stream is delivered, and backpressure reaches the side that causes it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::support::{Bridge, DATA_PATHS, now, pause, read_all, read_line, resident_kib, wait_until};

#[test]
fn megabytes_go_both_ways_at_once_and_arrive_unchanged() {
    for path in DATA_PATHS {
        let bridge = Bridge::start(&["--stdio", path], &["cat"]);
        let sent: Vec<u8> = (0..8_000_000_u32).map(|i| (i % 251) as u8).collect();
        let mut writer = bridge.connect();
        let mut reader = writer.try_clone().expect("cloned");
        let expected = sent.clone();
        let reading = thread::spawn(move || assert!(read_all(&mut reader) == expected, "{path}"));
        writer.write_all(&sent).expect("sent");
        writer.shutdown(Shutdown::Write).expect("half closed");
        reading.join().expect("all arrived");
    }
}

#[test]
fn after_a_half_close_the_rest_of_the_output_is_delivered() {
    for path in DATA_PATHS {
        let bridge = Bridge::shell(&["--stdio", path], "cat > /dev/null; head -c 400000 /dev/zero; echo end");
        let mut client = bridge.talk("input\n");
        client.shutdown(Shutdown::Write).expect("half closed");
        assert_eq!(read_all(&mut client).len(), 400_004, "{path}");
    }
}

/// Closing a socket with unread input is a reset, and a reset destroys output on its way.
#[test]
fn a_slow_reader_gets_all_output_of_a_process_that_has_exited_with_unread_input() {
    for path in DATA_PATHS {
        let server = "head -c 400000 /dev/zero; echo end; exit 0";
        let bridge = Bridge::shell(&["--stdio", path], server);
        let mut client = bridge.connect();
        setsockopt(&client, sockopt::RcvBuf, &4096).expect("set");
        client.write_all(&[b'x'; 100_000]).expect("sent");
        let (mut received, mut piece, begun) = (0, [0; 4_096], now());
        loop {
            match client.read(&mut piece).expect("no reset") {
                0 => break,
                bytes => received += bytes,
            }
            pause(Duration::from_millis(60)); // in all more than the five seconds for which input is drained
            if begun.elapsed() < Duration::from_secs(2) {
                client.write_all(b"more input that nobody reads\n").expect("sent");
            }
        }
        assert_eq!(received, 400_004, "{path}");
        assert!(begun.elapsed() > Duration::from_secs(5), "it was no slow reader");
    }
}

#[test]
fn end_of_the_process_reaches_the_client_while_a_grandchild_holds_the_socket() {
    for path in DATA_PATHS {
        // The grandchild leaves the group and its mark behind, so nothing but the bridge can end the connection.
        let server =
            "env -u DOCKER_MCP_BRIDGE_CONN setsid sh -c 'echo $$; exec sleep 1000' & read line; exit 0";
        let bridge = Bridge::shell(&["--stdio", path], server);
        let mut client = bridge.connect();
        client.write_all(b"g").expect("sent");
        let grandchild: i32 = read_line(&mut client).parse().expect("a pid");
        client.write_all(b"o\n").expect("sent");
        let begun = now();
        assert_eq!(read_all(&mut client), b"", "{path}");
        assert!(begun.elapsed() < Duration::from_secs(5), "the end of file does not wait for the grandchild");
        drop(client);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(grandchild), nix::sys::signal::SIGKILL)
            .expect("alive");
        wait_until("reaped", || bridge.children().is_empty());
    }
}

#[test]
fn input_for_a_dead_process_is_drained_for_five_seconds_and_no_longer() {
    for path in DATA_PATHS {
        let bridge = Bridge::shell(&["--stdio", path], "exit 0");
        let open_files = bridge.open_files();
        let mut client = bridge.talk("x\n");
        assert_eq!(client.read(&mut [0]).expect("an end of file"), 0);
        let begun = now();
        while client.write_all(b"nobody reads this\n").is_ok() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{path}: the socket is never closed");
            pause(Duration::from_millis(20));
        }
        assert!(begun.elapsed() > Duration::from_secs(4), "{path}: closed after {:?}", begun.elapsed());
        bridge.wait_for_rest(open_files);
    }
}

#[test]
fn a_process_that_reads_nothing_slows_its_client_down() {
    for path in DATA_PATHS {
        let bridge = Bridge::start(&["--stdio", path], &["sleep", "1000"]);
        let mut client = bridge.connect();
        client.set_write_timeout(Some(Duration::from_millis(500))).expect("set");
        let (mut sent, piece) = (0_usize, [b'x'; 65_536]);
        let stopped = loop {
            match client.write(&piece) {
                Ok(bytes) => sent += bytes,
                Err(error) => break error.kind(),
            }
            assert!(sent < 64_000_000, "{path}: somebody takes it all");
        };
        assert_eq!(stopped, ErrorKind::WouldBlock);
        let resident = resident_kib(bridge.pid());
        assert!(resident < 16_000, "{path}: the bridge holds {resident} KiB");
    }
}

#[test]
fn a_client_that_reads_nothing_slows_its_process_down_and_loses_nothing() {
    for path in DATA_PATHS {
        let server = "read x; head -c 20000000 /dev/zero; echo written >&2; read x";
        let bridge = Bridge::shell(&["--stdio", path], server);
        let mut client = bridge.connect();
        setsockopt(&client, sockopt::RcvBuf, &65_536).expect("set");
        client.write_all(b"go\n").expect("sent");
        bridge.wait_for_log("started");
        pause(Duration::from_millis(200));
        assert!(!bridge.log().contains("written"), "{path}: the process waits");
        let mut rest = vec![0; 20_000_000];
        client.read_exact(&mut rest).expect("all of it");
        bridge.wait_for_log("] written");
    }
}

#[test]
fn a_process_that_closes_stdin_still_answers_on_pipes() {
    let bridge = Bridge::shell(
        &["--stdio", "pipe", "--stop-grace", "100ms"],
        "read x; exec <&-; echo closed; sleep 0.3; echo answer; sleep 1000",
    );
    let mut client = bridge.talk("x\n");
    assert_eq!(read_line(&mut client), "closed");
    client.write_all(&[b'y'; 300_000]).expect("what nobody reads does not block the client");
    assert_eq!(read_line(&mut client), "answer");
    drop(client);
    bridge.wait_for_log("] ended"); // killed now, the bridge would leave a process behind
}

#[test]
fn small_answers_are_not_held_back() {
    for path in DATA_PATHS {
        let bridge = Bridge::start(&["--stdio", path], &["cat"]);
        let mut client = bridge.talk("warm\n");
        read_line(&mut client);
        let begun = now();
        for _ in 0..200 {
            round_trip(&mut client);
        }
        // Nagle with delayed acknowledgements would make it 8 s.
        assert!(begun.elapsed() < Duration::from_secs(4), "{path}: {:?}", begun.elapsed());
    }
}

fn round_trip(client: &mut TcpStream) {
    client.write_all(b"a").expect("sent");
    client.write_all(b"b\n").expect("sent");
    assert_eq!(read_line(client), "ab");
}
