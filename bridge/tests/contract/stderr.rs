//! The servers' stderr, line by line, and the bridge's own log.

use std::io::{Read, Write};
use std::process::Stdio;

use crate::support::{Bridge, binary, connect, read_all, read_line, resident_kib, wait_until};

#[test]
fn each_line_carries_the_number_of_its_connection() {
    let bridge = Bridge::shell(&[], "read x; echo \"hello $x\" >&2; printf 'no newline' >&2");
    for name in ["one\n", "two\n"] {
        read_all(&mut bridge.talk(name));
    }
    for line in ["[1] hello one\n", "[1] no newline\n", "[2] hello two\n", "[2] no newline\n"] {
        bridge.wait_for_log(line);
    }
    bridge.wait_for_log("docker-mcp-bridge: [2] ended");
}

#[test]
fn megabytes_of_stderr_arrive_and_disturb_nobody() {
    let noise =
        "i=0; while [ $i -lt 40 ]; do head -c 100000 /dev/zero | tr '\\0' e >&2; echo >&2; i=$((i+1)); done";
    let bridge = Bridge::shell(&[], &format!("{noise}; echo noisy; exec cat"));
    let mut client = bridge.talk("x\n");
    assert_eq!(read_line(&mut client), "noisy");
    assert_eq!(read_line(&mut client), "x");
    wait_until("all of it", || bridge.log().matches('e').count() >= 4_000_000);
    let longest = bridge.log().lines().map(str::len).max();
    assert!(longest.is_some_and(|bytes| bytes < 10_000), "long lines come in parts: {longest:?}");
}

#[test]
fn a_stderr_that_nobody_reads_blocks_neither_bridge_nor_clients() {
    let mut command = binary();
    command.args(["--listen", "127.0.0.1:0", "sh", "-c", "cat /dev/zero | tr '\\0' '\\n' >&2 & exec cat"]);
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut stderr = child.stderr.take().expect("piped");
    let mut greeting = Vec::new();
    while !greeting.ends_with(b"\n") {
        let mut byte = [0];
        stderr.read_exact(&mut byte).expect("greets");
        greeting.extend(byte);
    }
    let greeting = String::from_utf8(greeting).expect("UTF-8");
    let address = greeting.trim().rsplit_once(' ').expect("an address").1.parse().expect("an address");
    // From here on its stderr is not read.
    let mut first = connect(address);
    first.write_all(b"x\n").expect("sent");
    assert_eq!(read_line(&mut first), "x");
    for _ in 0..20 {
        let mut client = connect(address);
        client.write_all(b"y\n").expect("sent");
        assert_eq!(read_line(&mut client), "y");
    }
    first.write_all(b"z\n").expect("sent");
    assert_eq!(read_line(&mut first), "z");
    let resident = resident_kib(child.id().cast_signed());
    assert!(resident < 16_000, "{resident} KiB");
    child.kill().expect("alive");
    child.wait().expect("a child");
}

#[test]
fn arguments_are_not_logged() {
    let bridge = Bridge::start(&[], &["printf", "--secret=hunter2"]);
    read_all(&mut bridge.talk("x\n"));
    bridge.wait_for_log("ended");
    assert!(!bridge.log().contains("hunter2"));
}
