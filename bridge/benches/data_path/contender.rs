//! The ways to the server.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::SERVER_MODE;

pub(crate) struct Contender {
    pub(crate) name: String,
    /// The name of the contender it is compared with.
    pub(crate) floor: String,
    way: Way,
}

enum Way {
    Pipe,
    Launcher(Transport),
    Program { command: String, transport: Transport },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Unix,
}

/// A contender while it runs: dropping it ends it.
pub(crate) struct Running {
    program: Option<Child>,
    target: Target,
}

enum Target {
    Pipe,
    Tcp(u16),
    Unix(String),
}

/// Both ends of a conversation, whatever they are.
pub(crate) struct Client {
    pub(crate) reader: File,
    pub(crate) writer: File,
    /// The server, where the client itself started it.
    child: Option<Child>,
}

pub(crate) fn contenders(extra: &[String]) -> Vec<Contender> {
    let bridge = env!("CARGO_BIN_EXE_docker-mcp-bridge");
    let tcp = |options: &str| format!("{bridge} --listen 127.0.0.1:{{port}} {options} {{server}}");
    let unix = |options: &str| format!("{bridge} --listen unix:{{path}} {options} {{server}}");
    let program = |name: &str, floor: &str, command: String, transport| Contender {
        name: name.to_owned(),
        floor: floor.to_owned(),
        way: Way::Program { command, transport },
    };
    let launcher = |name: &str, floor: &str, transport| Contender {
        name: name.to_owned(),
        floor: floor.to_owned(),
        way: Way::Launcher(transport),
    };
    let mut all = vec![
        Contender { name: "pipe".to_owned(), floor: "pipe".to_owned(), way: Way::Pipe },
        launcher("tcp floor", "tcp floor", Transport::Tcp),
        program("tcp bridge handoff", "tcp floor", tcp("--stdio handoff"), Transport::Tcp),
        program("tcp bridge pipe", "tcp floor", tcp("--stdio pipe"), Transport::Tcp),
        launcher("unix floor", "unix floor", Transport::Unix),
        program("unix bridge handoff", "pipe", unix("--stdio handoff"), Transport::Unix),
        program("unix bridge pipe", "pipe", unix("--stdio pipe"), Transport::Unix),
    ];
    if Command::new("socat").arg("-V").stdout(Stdio::null()).status().is_ok() {
        let command =
            "socat TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr,nodelay EXEC:{quoted}".to_owned();
        all.push(program("tcp socat", "tcp floor", command, Transport::Tcp));
    }
    all.extend(extra.iter().filter_map(|argument| {
        let (name, command) = argument.split_once('=')?;
        Some(program(name, "tcp floor", command.to_owned(), Transport::Tcp))
    }));
    all
}

impl Contender {
    pub(crate) fn start(&self) -> Running {
        match &self.way {
            Way::Pipe => Running { program: None, target: Target::Pipe },
            Way::Launcher(Transport::Tcp) => {
                let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
                let port = listener.local_addr().expect("bound").port();
                thread::spawn(move || {
                    for socket in listener.incoming().flatten() {
                        socket.set_nodelay(true).expect("set");
                        launch(socket.into());
                    }
                });
                Running { program: None, target: Target::Tcp(port) }
            }
            Way::Launcher(Transport::Unix) => {
                let path = fresh_path();
                let listener = UnixListener::bind(&path).expect("bound");
                thread::spawn(move || listener.incoming().flatten().for_each(|socket| launch(socket.into())));
                Running { program: None, target: Target::Unix(path) }
            }
            Way::Program { command, transport } => {
                let (port, path) = (free_port(), fresh_path());
                let server = std::env::current_exe().expect("known").display().to_string();
                let words = command.split_ascii_whitespace().map(|word| {
                    word.replace("{port}", &port.to_string())
                        .replace("{path}", &path)
                        .replace("{quoted}", &format!("{server} {SERVER_MODE}"))
                });
                let words: Vec<String> = words
                    .flat_map(|word| match word.as_str() {
                        "{server}" => vec![server.clone(), SERVER_MODE.to_owned()],
                        _ => vec![word],
                    })
                    .collect();
                let program = Command::new(&words[0])
                    .args(&words[1..])
                    .stdin(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .expect("starts");
                let target = match transport {
                    Transport::Tcp => Target::Tcp(port),
                    Transport::Unix => Target::Unix(path),
                };
                let running = Running { program: Some(program), target };
                while !running.listens() {
                    thread::sleep(Duration::from_millis(5));
                }
                running
            }
        }
    }
}

impl Running {
    /// The program between client and server, if there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.program.as_ref().map(Child::id)
    }

    pub(crate) fn connect(&self) -> Client {
        match &self.target {
            Target::Pipe => {
                let mut child =
                    server().stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
                let writer = OwnedFd::from(child.stdin.take().expect("piped"));
                let reader = OwnedFd::from(child.stdout.take().expect("piped"));
                Client { reader: reader.into(), writer: writer.into(), child: Some(child) }
            }
            Target::Tcp(port) => {
                let socket = TcpStream::connect(("127.0.0.1", *port)).expect("connects");
                socket.set_nodelay(true).expect("set");
                Client::of(socket.into())
            }
            Target::Unix(path) => Client::of(UnixStream::connect(path).expect("connects").into()),
        }
    }

    fn listens(&self) -> bool {
        match &self.target {
            Target::Pipe => true,
            Target::Tcp(port) => TcpStream::connect(("127.0.0.1", *port)).is_ok(),
            Target::Unix(path) => UnixStream::connect(path).is_ok(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(program) = &mut self.program {
            let _ = program.kill();
            let _ = program.wait();
        }
        if let Target::Unix(path) = &self.target {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Client {
    fn of(socket: OwnedFd) -> Self {
        Self { reader: socket.try_clone().expect("cloned").into(), writer: socket.into(), child: None }
    }

    /// Sends the message and takes the answer, which has as many bytes.
    pub(crate) fn round_trip(&mut self, message: &[u8], answer: &mut [u8]) -> io::Result<()> {
        self.writer.write_all(message)?;
        self.reader.read_exact(answer)
    }

    pub(crate) fn close(self) {
        let Self { reader, writer, child } = self;
        drop((reader, writer));
        if let Some(mut child) = child {
            child.wait().expect("a child");
        }
    }
}

fn server() -> Command {
    let mut command = Command::new(std::env::current_exe().expect("known"));
    command.arg(SERVER_MODE);
    command
}

fn launch(socket: OwnedFd) {
    let output = socket.try_clone().expect("cloned");
    let mut child = server().stdin(Stdio::from(socket)).stdout(Stdio::from(output)).spawn().expect("starts");
    thread::spawn(move || child.wait());
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("bound").port()
}

fn fresh_path() -> String {
    format!("{}/bench-{}-{}.sock", std::env::temp_dir().display(), std::process::id(), free_port())
}
