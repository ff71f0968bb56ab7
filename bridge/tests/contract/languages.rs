//! Servers behave as they do at home, whatever their runtime does to its stdin and stdout.
//!
//! Each server answers a line with a number by a line of that many bytes. A runtime that is not installed is skipped.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::cli::tempdir;
use crate::support::{Bridge, DATA_PATHS, connect, pause, read_all};

const NODE: &str = "let b='';process.stdin.on('data',d=>{b+=d;let i;while((i=b.indexOf('\\n'))>=0){\
    process.stdout.write('x'.repeat(+b.slice(0,i)-1)+'\\n');b=b.slice(i+1)}})";

const PYTHON_BLOCKING: &str = "import sys\nfor line in sys.stdin: print('x'*(int(line)-1), flush=True)";

/// Both ends belong to the event loop, as in asyncio's documentation.
const PYTHON_ASYNCIO: &str = "
import asyncio, sys
async def main():
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, sys.stdout)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    while line := await reader.readline():
        writer.write(b'x'*(int(line)-1)+b'\\n')
        await writer.drain()
asyncio.run(main())";

/// The loop makes stdin non-blocking, and print expects stdout to block.
const PYTHON_ASYNCIO_PRINT: &str = "
import asyncio, sys
async def main():
    loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print('x'*(int(line)-1), flush=True)
asyncio.run(main())";

const JAVA: &str = "import java.io.*; public class Echo { public static void main(String[] a) throws IOException {
    var in = new BufferedReader(new InputStreamReader(System.in)); String line;
    while ((line = in.readLine()) != null) { System.out.println(\"x\".repeat(Integer.parseInt(line) - 1)); System.out.flush(); } } }";

#[test]
fn node_behaves_on_either_path() {
    for path in DATA_PATHS {
        converses(&["--stdio", path], &["node", "-e", NODE]);
    }
}

#[test]
fn python_behaves_on_either_path_when_it_blocks() {
    for path in DATA_PATHS {
        converses(&["--stdio", path], &["python3", "-c", PYTHON_BLOCKING]);
    }
}

#[test]
fn python_behaves_on_the_default_path_when_it_does_not_block() {
    for program in [PYTHON_ASYNCIO, PYTHON_ASYNCIO_PRINT] {
        converses(&[], &["python3", "-c", program]);
    }
}

#[test]
fn java_behaves_on_a_socket() {
    let source = format!("{}/Echo.java", tempdir("java"));
    fs::write(&source, JAVA).expect("written");
    converses(&["--stdio", "handoff"], &["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", &source]);
}

/// Small and large answers to a reader that takes its time, and a clean end.
fn converses(options: &[&str], server: &[&str]) {
    let version =
        Command::new(server[0]).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        eprintln!("skipped: {} is not installed", server[0]);
        return;
    }
    let bridge = Bridge::start(options, server);
    let mut client = connect(bridge.address);
    setsockopt(&client, sockopt::RcvBuf, &262_144).expect("set");
    for bytes in [200, 300_000, 5, 2_000_000] {
        client.write_all(format!("{bytes}\n").as_bytes()).expect("sent");
        pause(Duration::from_millis(100)); // the reader that takes its time: the answer fills pipe and socket meanwhile
        let mut answer = vec![0; bytes];
        client.read_exact(&mut answer).expect("the whole answer");
        assert!(answer.ends_with(b"x\n"));
    }
    client.shutdown(Shutdown::Write).expect("half closed");
    assert_eq!(read_all(&mut client), b"");
    bridge.wait_for_log("status=0");
}
