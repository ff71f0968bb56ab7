//! One way to ask at a time: an HTTP/1.1 connection, plain or TLS, or a stream of an HTTP/2 connection.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::http1::Http1;
use super::http2::Http2;
use crate::tls;

/// The ways.
pub(super) enum Channel {
    Plain(Http1<TcpStream>),
    Tls(Box<Http1<TlsStream<TcpStream>>>),
    Http2(Http2),
}

impl Channel {
    /// As many as wanted; with HTTP/2 all are streams of one connection.
    pub(super) async fn open(
        address: SocketAddr,
        http2: bool,
        trusted: Option<&Path>,
        count: usize,
    ) -> Result<Vec<Channel>> {
        let connector = match trusted {
            Some(certificate) => Some(TlsConnector::from(Arc::new(tls::client(certificate, http2)?))),
            None => None,
        };
        let mut channels = Vec::new();
        for _ in 0..if http2 { 1 } else { count } {
            let stream = TcpStream::connect(address).await.context("connect")?;
            stream.set_nodelay(true)?;
            match (&connector, http2) {
                (None, false) => channels.push(Channel::Plain(Http1::new(stream))),
                (None, true) => channels.extend(Http2::open(stream, count).await?.map(Channel::Http2)),
                (Some(connector), _) => {
                    let name = ServerName::try_from("localhost")?;
                    let stream = connector.connect(name, stream).await.context("TLS")?;
                    if http2 {
                        channels.extend(Http2::open(stream, count).await?.map(Channel::Http2));
                    } else {
                        channels.push(Channel::Tls(Box::new(Http1::new(stream))));
                    }
                }
            }
        }
        Ok(channels)
    }

    /// Sends a request and reads its answer; the bytes of its body come back.
    pub(super) async fn ask(&mut self, request: &[u8]) -> Result<usize> {
        match self {
            Channel::Plain(http1) => http1.ask(request).await,
            Channel::Tls(http1) => http1.ask(request).await,
            Channel::Http2(http2) => http2.ask(request).await,
        }
    }

    /// Sends a step of a session, whatever comes back; the session that the answer names.
    pub(super) async fn step(&mut self, request: &[u8]) -> Result<Option<String>> {
        match self {
            Channel::Plain(http1) => http1.step(request).await,
            Channel::Tls(http1) => http1.step(request).await,
            Channel::Http2(_) => anyhow::bail!("sessions are measured on HTTP/1.1"),
        }
    }
}
