//! Servers that misbehave.

use std::io::Write;

use crate::support::{Bridge, GUARD, now, read_all, read_line, wait_until};

#[test]
fn server_that_closes_stdout_on_pipes_is_stopped() {
    let server = "echo last words; exec >&-; trap '' TERM; while :; do sleep 0.05; done";
    let bridge = Bridge::shell(&["--stdio", "pipe", "--stop-grace", "100ms"], server);
    let open_files = bridge.open_files();
    let mut client = bridge.talk("x\n");
    assert_eq!(read_all(&mut client), b"last words\n");
    bridge.wait_for_rest(open_files + 1);
    drop(client);
    bridge.wait_for_rest(open_files);
}

#[test]
fn a_command_that_disappears_after_the_start_closes_its_connections() {
    let directory = crate::cli::tempdir("gone");
    let server = format!("{directory}/server");
    std::fs::copy("/bin/cat", &server).expect("copied");
    let bridge = Bridge::start(&[], &[&server]);
    assert_eq!(read_line(&mut bridge.talk("x\n")), "x");
    std::fs::remove_file(&server).expect("removed");
    assert_eq!(read_all(&mut bridge.talk("x\n")), b"");
    bridge.wait_for_log("cannot start");
    bridge.wait_for_log(&server);
}

#[test]
fn killing_the_process_closes_its_connection_at_once_and_no_other() {
    let bridge = Bridge::start(&[], &["cat"]);
    let (mut victim, mut other) = (bridge.talk("x\n"), bridge.connect());
    read_line(&mut victim);
    let pid = bridge.servers()[0];
    other.write_all(b"y\n").expect("sent");
    read_line(&mut other);
    let begun = now();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).expect("alive");
    assert_eq!(read_all(&mut victim), b"");
    assert!(begun.elapsed() < GUARD / 10);
    other.write_all(b"z\n").expect("sent");
    assert_eq!(read_line(&mut other), "z");
    bridge.wait_for_log("signal=9");
}

#[test]
fn a_process_that_exits_between_start_and_first_read_leaves_nothing() {
    let bridge = Bridge::start(&[], &["true"]);
    let open_files = bridge.open_files();
    for _ in 0..50 {
        drop(bridge.talk("x\n"));
    }
    wait_until("all have run", || bridge.log().matches("ended pid=").count() == 50);
    bridge.wait_for_rest(open_files);
}
