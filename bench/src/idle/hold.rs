//! The client: opens the sessions and holds them until its input ends; each line of input is answered with counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, ensure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use testkit::{eventually, http};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::INITIALIZE;
use crate::report::print;

/// What all streams count together.
#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    comments: AtomicUsize,
}

pub(super) async fn hold(address: SocketAddr, sessions: usize, tls: Option<ClientConfig>) -> Result<()> {
    let counts = Arc::<Counts>::default();
    let tls = tls.map(|config| TlsConnector::from(Arc::new(config)));
    let (mut opening, at_once) = (JoinSet::new(), Arc::new(Semaphore::new(OPENING)));
    for _ in 0..sessions {
        let place = at_once.clone().acquire_owned().await?;
        let tls = tls.clone();
        opening.spawn(async move {
            let stream = open(connect(address, tls).await?).await;
            drop(place);
            stream
        });
    }
    let mut held = JoinSet::new();
    while let Some(opened) = opening.join_next().await {
        held.spawn(listen(opened??, counts.clone()));
    }
    eventually("all streams to be read", async || {
        (counts.open.load(Ordering::Relaxed) == sessions).then_some(())
    })
    .await;
    print("open");
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while input.next_line().await?.is_some() {
        let (open, comments) = (counts.open.load(Ordering::Relaxed), counts.comments.load(Ordering::Relaxed));
        print(&format!("{open} {comments}"));
    }
    Ok(())
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn connect(address: SocketAddr, tls: Option<TlsConnector>) -> Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(match tls {
        None => Box::new(stream),
        Some(tls) => Box::new(tls.connect(ServerName::try_from("localhost")?, stream).await?),
    })
}

/// Opens a session, and the session's stream on the same connection.
async fn open(mut stream: Box<dyn Stream>) -> Result<Box<dyn Stream>> {
    let post = |body: &str| {
        http::Request::new("POST", "/mcp")
            .header("Content-Type", "application/json")
            .header("Accept", "application/json, text/event-stream")
            .body(body)
    };
    let (_, head) = exchange(&mut stream, &post(INITIALIZE)).await?;
    let session =
        head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).context("no session")?;
    let session = session.to_owned();
    let (status, _) = exchange(&mut stream, &post(INITIALIZED).header("Mcp-Session-Id", &session)).await?;
    ensure!(status == 202, "initialized was answered {status}");
    let get = http::Request::new("GET", "/mcp").header("Accept", "text/event-stream");
    let (status, head) = exchange(&mut stream, &get.header("Mcp-Session-Id", &session)).await?;
    ensure!(status == 200 && head.contains("text/event-stream"), "{head}");
    Ok(stream)
}

/// Sends a request and reads the head of its answer, and its body if the length is known.
async fn exchange(stream: &mut Box<dyn Stream>, request: &http::Request) -> Result<(u16, String)> {
    stream.write_all(&request.bytes("localhost")).await?;
    stream.flush().await?;
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        ensure!(stream.read_buf(&mut read).await? > 0, "the connection ended");
    };
    let head = String::from_utf8_lossy(read.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let whole = end + length.map_or(Ok(0), str::parse)?;
    while read.len() < whole {
        ensure!(stream.read_buf(&mut read).await? > 0, "the connection ended");
    }
    // Session ids are case-sensitive.
    let head = String::from_utf8_lossy(read.get(..end).unwrap_or_default()).into_owned();
    let lines = head.lines().map(|line| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}\n", name.to_ascii_lowercase()),
        None => format!("{line}\n"),
    });
    Ok((status, lines.collect()))
}

/// Reads a stream to its end; the buffer is small, for there are many.
async fn listen(mut stream: Box<dyn Stream>, counts: Arc<Counts>) {
    counts.open.fetch_add(1, Ordering::Relaxed);
    let mut piece = [0; 512];
    while let Ok(bytes @ 1..) = stream.read(&mut piece).await {
        let comments = piece.get(..bytes).unwrap_or_default().windows(3).filter(|at| *at == b"\n: ").count();
        counts.comments.fetch_add(comments, Ordering::Relaxed);
    }
    counts.open.fetch_sub(1, Ordering::Relaxed);
}

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
/// Sessions that are opened at a time: fewer than a listener's backlog.
const OPENING: usize = 64;
