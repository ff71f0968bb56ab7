//! The connection of a visit: name, address, TLS, HTTP/1.1, each step timed and with a deadline.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, LOCATION};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::parse::{Answer, json};
use super::{Trouble, trust};

/// One connection to one host, made again when the other side has closed it.
pub(super) struct Line {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
    /// The largest answer that is read.
    largest: usize,
    open: Option<Open>,
}

struct Open {
    client: SendRequest<Full<Bytes>>,
    _connection: AbortOnDropHandle<()>,
}

impl Line {
    pub(super) fn new(uri: Uri, timeout: Duration, authorities: Option<&Path>) -> Result<Self, Trouble> {
        let is_tls = uri.scheme_str() == Some("https");
        let tls = if is_tls { Some(trust::client(authorities)?) } else { None };
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { uri, host, port, tls, timeout, largest: LARGEST, open: None })
    }

    /// The same with another bound on an answer.
    pub(super) fn reading_at_most(self, largest: usize) -> Self {
        Self { largest, ..self }
    }

    /// Connects; a line for each step that went well.
    pub(super) async fn open(&mut self) -> Result<Vec<String>, Trouble> {
        let mut found = Vec::new();
        let began = Instant::now();
        let stream = self.connect().await?;
        let peer = stream.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
        found.push(format!("  {:<10} {peer} ({} ms)", "address", began.elapsed().as_millis()));
        // One request waits for one answer: nothing is gained by holding bytes back.
        stream.set_nodelay(true).map_err(|error| Trouble::Broken(error.to_string()))?;
        self.open = Some(match self.tls.clone() {
            None => self.speak(stream).await?,
            Some(config) => {
                let began = Instant::now();
                let name = ServerName::try_from(self.host.clone()).map_err(|_| {
                    Trouble::Tls(format!("{} cannot be the name of a certificate", self.host))
                })?;
                let stream = self
                    .within("the TLS handshake", TlsConnector::from(config).connect(name, stream))
                    .await?;
                let stream = stream.map_err(|error| Trouble::Tls(trust::words(&error, &self.host)))?;
                let version = stream
                    .get_ref()
                    .1
                    .protocol_version()
                    .map_or_else(String::new, |version| format!("{version:?}"));
                let took = began.elapsed().as_millis();
                found.push(format!("  {:<10} {version}, a certificate for {} ({took} ms)", "TLS", self.host));
                self.speak(stream).await?
            }
        });
        Ok(found)
    }

    async fn connect(&self) -> Result<TcpStream, Trouble> {
        let address = format!("{}:{}", self.host, self.port);
        let found =
            self.within("an answer from the DNS", lookup_host((self.host.as_str(), self.port))).await?;
        let found: Vec<_> = found.map_err(|_| Trouble::UnknownName(self.host.clone()))?.collect();
        let stream = self.within("a connection", TcpStream::connect(found.as_slice())).await?;
        stream.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => Trouble::NobodyThere { address },
            _ => Trouble::Broken(format!("no way to {address}: {error}")),
        })
    }

    async fn speak<S>(&self, stream: S) -> Result<Open, Trouble>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (client, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Trouble::Broken(error.to_string()))?;
        // Its error reaches whoever waits for an answer.
        let connection = AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }));
        Ok(Open { client, _connection: connection })
    }

    /// Sends a request with `message` as its body (`Null`: without one) and reads the whole answer.
    pub(super) async fn send(
        &mut self,
        request: http::request::Builder,
        message: &Value,
    ) -> Result<Answer, Trouble> {
        // Not ready means closed here, since the answer before was read to its end.
        let is_usable = match &mut self.open {
            Some(open) => open.client.ready().await.is_ok(),
            None => false,
        };
        if !is_usable {
            self.open().await?;
        }
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let body = if message.is_null() { Bytes::new() } else { Bytes::from(message.to_string()) };
        let request = request
            .header(HOST, authority)
            .header(ACCEPT, "application/json, text/event-stream")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|_| Trouble::Ours("the token cannot be sent: it holds a line break or another character that headers cannot carry".to_owned()))?;
        let Some(open) = self.open.as_mut() else {
            return Err(Trouble::Broken("the connection is gone".to_owned()));
        };
        let sent = open.client.send_request(request);
        let response =
            tokio::time::timeout(self.timeout, sent).await.map_err(|_| self.silent("an answer"))?;
        self.read(response.map_err(|error| self.broken(&error))?).await
    }

    async fn read(&self, response: http::Response<Incoming>) -> Result<Answer, Trouble> {
        let text =
            |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let (content_type, location) = (text(CONTENT_TYPE).unwrap_or_default(), text(LOCATION));
        let session = response.headers().get("mcp-session-id").cloned();
        let status = response.status();
        let whole = Limited::new(response.into_body(), self.largest).collect();
        let body = self.within("the rest of the answer", whole).await?;
        let body =
            body.map_err(|error| Trouble::Broken(format!("the answer broke off: {error}")))?.to_bytes();
        let body = json(&content_type, &body).unwrap_or_default();
        Ok(Answer { status, content_type, location, session, body })
    }

    async fn within<T>(&self, what: &'static str, step: impl Future<Output = T>) -> Result<T, Trouble> {
        tokio::time::timeout(self.timeout, step).await.map_err(|_| self.silent(what))
    }

    fn silent(&self, what: &'static str) -> Trouble {
        Trouble::Silent { what, seconds: self.timeout.as_secs() }
    }

    fn broken(&self, error: &hyper::Error) -> Trouble {
        if error.is_parse() || (self.tls.is_none() && error.is_incomplete_message()) {
            let other = if self.tls.is_none() { "; if it speaks TLS, write https://" } else { "" };
            return Trouble::NotMcp(format!("it does not answer in HTTP{other}"));
        }
        Trouble::Broken(format!("the connection broke: {error}"))
    }
}

/// The largest answer that is read: four times what a server may send to the edge in one line.
const LARGEST: usize = 64 * 1024 * 1024;
