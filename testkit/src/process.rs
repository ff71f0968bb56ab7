//! Programs under test: found, started on free ports, awaited, and killed with their guard.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};

use crate::http::Request;
use crate::{GUARD, eventually};

/// The path of a program: a release binary in `$MCP_DIST` or the target's `dist`. A server of the testkit's
/// own may also lie next to the running test, where `cargo test` put it; the product is never taken from
/// there.
///
/// # Panics
/// The program is missing; the message names the command that builds it.
pub fn binary(name: &str) -> PathBuf {
    let dist = dist();
    let mut places = vec![dist.join(name)];
    if ["demo-server", "scripted-server"].contains(&name) && std::env::var_os("MCP_DIST").is_none() {
        // A test runs in `target/<profile>/deps`.
        let beside = std::env::current_exe().ok().and_then(|test| Some(test.parent()?.parent()?.join(name)));
        places.splice(0..0, beside);
    }
    let found = places.into_iter().find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not in {}; run `make build` first", dist.display()))
}

fn dist() -> PathBuf {
    if let Some(dist) = std::env::var_os("MCP_DIST") {
        return dist.into();
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("dist")
}

/// The root of the workspace.
///
/// # Panics
/// Never: the testkit lies inside it.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the testkit has a parent").to_owned()
}

/// A loopback address where nothing listens, with a port below the range of outgoing connections.
///
/// # Panics
/// There is no free port.
pub fn free_address() -> SocketAddr {
    static TAKEN: AtomicUsize = AtomicUsize::new(0);
    // Test programs that run at the same time start at different ports.
    let first = std::process::id() as usize * 101;
    let mut ports = (0..PORTS.len()).map(|_| {
        let port = PORTS.start + (first + TAKEN.fetch_add(1, Ordering::Relaxed)) % PORTS.len();
        SocketAddr::from(([127, 0, 0, 1], port as u16))
    });
    ports.find(|address| is_free(*address).is_ok()).expect("a free port")
}

/// Fails if something listens at the address. Does not listen itself, because a program that another test starts at this
/// moment holds a copy of each of our sockets until its exec.
fn is_free(address: SocketAddr) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

const PORTS: std::ops::Range<usize> = 12_000..32_000;

/// A directory that goes with its guard.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new, empty directory.
    ///
    /// # Panics
    /// When it cannot be made.
    #[expect(clippy::new_without_default, reason = "making a directory is not a default")]
    pub fn new() -> Scratch {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("mcp-testkit-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Scratch(path)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file into it; its path comes back.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("a file for the test");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running program. It is killed when dropped; in a panic its output is shown.
pub struct Process {
    name: String,
    child: Child,
    pid: u32,
    output: Arc<Mutex<String>>,
}

impl Process {
    /// Starts the command and keeps both of its outputs.
    ///
    /// # Panics
    /// The command cannot be started.
    pub fn start(mut command: Command) -> Process {
        let name = Path::new(command.as_std().get_program()).file_name().map(OsStr::to_string_lossy);
        let name = name.unwrap_or_default().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let output = Arc::<Mutex<String>>::default();
        tokio::spawn(keep(child.stdout.take().expect("piped"), output.clone()));
        tokio::spawn(keep(child.stderr.take().expect("piped"), output.clone()));
        let pid = child.id().expect("it has not been awaited");
        Process { name, child, pid, output }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it wrote so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Waits until it has written `text`.
    pub async fn wrote(&self, text: &str) {
        eventually(text, async || self.output().contains(text).then_some(())).await;
    }

    /// Sends a signal by its short name, such as `TERM`.
    pub async fn signal(&self, name: &str) {
        signal(self.pid, name).await;
    }

    /// Waits until it ends.
    ///
    /// # Panics
    /// It does not end within [`GUARD`].
    pub async fn ended(&mut self) -> ExitStatus {
        let ended = tokio::time::timeout(GUARD, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("{} did not end", self.name)).expect("a child can be awaited")
    }

    /// Its exit status, if it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    fn assert_runs(&mut self) {
        if let Some(status) = self.status() {
            panic!("{} ended with {status}:\n{}", self.name, self.output());
        }
    }
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "a failed test shows the output of its programs")]
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        if std::thread::panicking() {
            eprintln!("---- {} ({}) wrote:\n{}", self.name, self.pid, self.output());
        }
    }
}

/// Sends a signal by its short name to a process that need not be ours.
///
/// # Panics
/// When there is no shell.
pub async fn signal(pid: u32, name: &str) {
    let kill = format!("kill -{name} {pid}");
    Command::new("sh").args(["-c", &kill]).status().await.expect("a shell");
}

async fn keep(pipe: impl AsyncRead + Unpin, output: Arc<Mutex<String>>) {
    let mut lines = BufReader::new(pipe);
    let mut line = Vec::new();
    while matches!(lines.read_until(b'\n', &mut line).await, Ok(bytes) if bytes > 0) {
        output.lock().unwrap().push_str(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

/// The processes that `parent` has started and that still run.
///
/// # Panics
/// There is no `/proc`.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").expect("a Linux system").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, of)| of == parent)).collect()
}

/// Whether a process has ended. A zombie counts as ended: its parent has to reap it.
pub fn is_gone(pid: u32) -> bool {
    stat(pid).is_none_or(|(state, _)| state == "Z")
}

/// The state of a process, and its parent: proc(5).
fn stat(pid: u32) -> Option<(String, u32)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// A release bridge in front of a command.
pub struct Bridge {
    /// The program.
    pub process: Process,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Bridge {
    /// Starts a bridge on a free port and waits until it accepts.
    pub async fn start(command: &[impl AsRef<OsStr>]) -> Bridge {
        Bridge::start_at(free_address(), &[], command).await
    }

    /// Starts a bridge on this address, with more options of its own.
    pub async fn start_at(address: SocketAddr, options: &[&str], command: &[impl AsRef<OsStr>]) -> Bridge {
        let mut bridge = Command::new(binary("docker-mcp-bridge"));
        bridge.arg("--listen").arg(address.to_string()).args(options).arg("--").args(command);
        let mut process = Process::start(bridge);
        // A connect that sends nothing starts no process.
        eventually("the bridge to accept", async || {
            process.assert_runs();
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        Bridge { process, address }
    }
}

/// A release edge.
pub struct Edge {
    /// The program.
    pub process: Process,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where `/health`, `/ready` and `/metrics` are.
    pub admin: SocketAddr,
}

impl Edge {
    /// Starts an edge on free ports in front of these servers, without authentication, and waits until it is alive.
    pub async fn start(servers: &[(&str, SocketAddr)]) -> Edge {
        let servers: Vec<_> =
            servers.iter().flat_map(|(name, at)| ["--server".to_owned(), format!("{name}={at}")]).collect();
        let mut command = Command::new(binary("mcp-edge"));
        command.args(servers).arg("--allow-unauthenticated");
        Edge::start_with(command).await
    }

    /// Starts an edge by this command, with its addresses added, and waits until it is alive.
    pub async fn start_with(command: Command) -> Edge {
        Edge::start_at(command, free_address()).await
    }

    /// Starts an edge by this command, with `address` for clients, and waits until it is alive.
    pub async fn start_at(mut command: Command, address: SocketAddr) -> Edge {
        let admin = free_address();
        command.arg("--listen").arg(address.to_string()).arg("--admin").arg(admin.to_string());
        let mut edge = Edge { process: Process::start(command), address, admin };
        eventually("the edge to be alive", async || {
            edge.process.assert_runs();
            (get(admin, "/health").await?.0 == 200).then_some(())
        })
        .await;
        edge
    }

    /// Waits until `/ready` answers 200.
    pub async fn ready(&self) {
        eventually("the edge to be ready", async || (self.readiness().await.0 == 200).then_some(())).await;
    }

    /// Status and body of the admin port's `/ready`.
    ///
    /// # Panics
    /// When the admin port does not answer.
    pub async fn readiness(&self) -> (u16, String) {
        get(self.admin, "/ready").await.expect("the admin port answers")
    }

    /// The value of one line of `/metrics`: its name with labels, as printed.
    ///
    /// # Panics
    /// When the admin port does not answer.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let (_, text) = get(self.admin, "/metrics").await.expect("the admin port answers");
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }
}

async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut response = Request::new("GET", path).send(address).await.ok()?;
    Some((response.status, response.text().await))
}
