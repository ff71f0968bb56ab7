//! A bridge under test, and what /proc shows of it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What only a broken bridge reaches.
pub(crate) const GUARD: Duration = Duration::from_secs(30);

/// Both ways of the bytes; most promises hold on either.
pub(crate) const DATA_PATHS: [&str; 2] = ["handoff", "pipe"];

/// The binary under test, not yet started.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_docker-mcp-bridge"));
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with("DOCKER_MCP_BRIDGE_") {
            command.env_remove(variable);
        }
    }
    command
}

/// Runs it to its end, which must come by itself.
pub(crate) fn run(arguments: &[&str]) -> (Output, String) {
    let output = binary().args(arguments).stdin(Stdio::null()).output().expect("runs");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, stderr)
}

/// A serving bridge. Dropping it kills it.
pub(crate) struct Bridge {
    child: Child,
    log: Arc<Mutex<String>>,
    pub(crate) address: SocketAddr,
}

impl Bridge {
    /// Starts a bridge on a free port of loopback in front of `server`, a line of shell.
    pub(crate) fn shell(options: &[&str], server: &str) -> Self {
        Self::start(options, &["sh", "-c", server])
    }

    pub(crate) fn start(options: &[&str], server: &[&str]) -> Self {
        let mut command = binary();
        command.args(["--listen", "127.0.0.1:0"]).args(options).arg("--").args(server);
        Self::spawn(command)
    }

    /// Starts `command`, which has to become a bridge that listens on an address of loopback.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().expect("piped"));
        let sink = Arc::clone(&log);
        // Ends with the last writer of the pipe.
        thread::spawn(move || {
            for line in lines.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                sink.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let unbound = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut bridge = Self { child, log, address: unbound };
        bridge.wait_for_log("listening on ");
        let log = bridge.log();
        let addresses = log.split("listening on ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
        bridge.address = addresses.split(", ").find_map(|text| text.parse().ok()).unwrap_or(unbound);
        bridge
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Connects and sends `line`, so that the process starts.
    pub(crate) fn talk(&self, line: &str) -> TcpStream {
        let mut client = self.connect();
        client.write_all(line.as_bytes()).expect("sent");
        client
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn wait_for_log(&self, text: &str) {
        wait_until(&format!("`{text}` in the log:\n{}", self.log()), || self.log().contains(text));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("alive");
    }

    /// Waits for it to exit by itself.
    pub(crate) fn exit_status(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until("the bridge exits", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("waited for")
    }

    /// Every process that carries this bridge's mark, wherever it has gone.
    pub(crate) fn servers(&self) -> Vec<i32> {
        let mark = format!("DOCKER_MCP_BRIDGE_CONN={}-", self.pid());
        let carries = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(mark.as_bytes()))
        };
        processes().into_iter().filter(carries).collect()
    }

    /// Its children, zombies included.
    pub(crate) fn children(&self) -> Vec<i32> {
        processes().into_iter().filter(|pid| stat(*pid, PARENT) == Some(i64::from(self.pid()))).collect()
    }

    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("alive").count()
    }

    /// The number of the next descriptor. The limit of open files bounds these numbers, not their count, and the process that
    /// started the tests may have left high ones open.
    pub(crate) fn first_free_file(&self) -> usize {
        let is_open =
            |number: &usize| fs::symlink_metadata(format!("/proc/{}/fd/{number}", self.pid())).is_ok();
        (0..).find(|number| !is_open(number)).expect("numbers do not end")
    }

    /// Waits until no process, zombie or socket of any connection is left.
    pub(crate) fn wait_for_rest(&self, open_files: usize) {
        wait_until("no process is left", || self.servers().is_empty());
        wait_until("no zombie is left", || self.children().is_empty());
        wait_until("no socket is left", || self.open_files() <= open_files);
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let last: Vec<String> =
                log.lines().rev().take(40).map(|line| line.chars().take(200).collect()).collect();
            eprintln!("the bridge's log ended with:");
            last.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("connects");
    client.set_read_timeout(Some(GUARD)).expect("set");
    client.set_write_timeout(Some(GUARD)).expect("set");
    client.set_nodelay(true).expect("set");
    client
}

/// Reads one line, byte by byte so that nothing behind it is taken.
pub(crate) fn read_line(client: &mut impl Read) -> String {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while client.read(&mut byte).expect("a line arrives") == 1 && byte != *b"\n" {
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("UTF-8")
}

/// Reads to the end of file, which must not be a reset.
pub(crate) fn read_all(client: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("ends without a reset");
    bytes
}

/// What another process has under a field of /proc/pid/stat; `None` if there is no such process.
pub(crate) fn stat(pid: i32, field: usize) -> Option<i64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(field)?.parse().ok()
}

/// Fields of /proc/pid/stat, counted from the state behind the name.
pub(crate) const PARENT: usize = 1;
pub(crate) const GROUP: usize = 2;
pub(crate) const USER_TICKS: usize = 11;
pub(crate) const SYSTEM_TICKS: usize = 12;

/// Resident memory of a process.
pub(crate) fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("alive");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("there");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

pub(crate) fn is_alive(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None).is_ok()
}

fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("mounted");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = now() + GUARD;
    while !condition() {
        assert!(now() < end, "waited too long: {what}");
        pause(Duration::from_millis(10));
    }
}

#[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// For what only time can show: that something does not happen, that a process has lived for long, that a reader is slow.
#[expect(clippy::disallowed_methods, reason = "another process keeps its own time")]
pub(crate) fn pause(time: Duration) {
    thread::sleep(time);
}
