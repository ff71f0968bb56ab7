//! One connection to one host: name lookup, TCP, TLS, HTTP/1.1, each step timed and with a deadline.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::FetchError;
use super::trust::{self, Trust};

/// How a connection is made and bounded.
#[derive(Clone, Debug)]
pub struct Options {
    /// The longest wait for one step: name lookup, connection, handshake, response head, response body.
    pub timeout: Duration,
    /// Whose certificates are accepted under https.
    pub trust: Trust,
    /// The largest response body that is read.
    pub max_response_bytes: usize,
}

/// A connection to the host of one URL. It is opened by the first request, and again after the other side closed it.
pub struct HttpConnection {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    options: Options,
    open: Option<Open>,
}

struct Open {
    client: SendRequest<Full<Bytes>>,
    _driver: AbortOnDropHandle<()>,
}

/// What [`HttpConnection::open`] did, for reports.
#[derive(Debug)]
pub struct Opened {
    /// The address that the connection went to.
    pub peer: SocketAddr,
    /// How long name lookup and TCP connect took.
    pub connect_time: Duration,
    /// The TLS version and how long the handshake took; `None` without TLS.
    pub tls: Option<(String, Duration)>,
}

/// A whole response.
#[derive(Debug)]
pub struct HttpResponse {
    /// The status; redirects are not followed.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, to its end.
    pub body: Bytes,
}

impl HttpConnection {
    /// Prepares a connection to the host of `uri`. Reads the certificates to trust, and sends nothing.
    ///
    /// # Errors
    /// The certificates to trust cannot be used.
    pub fn new(uri: Uri, options: &Options) -> Result<Self, FetchError> {
        let is_tls = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = if is_tls { Some(trust::client_config(&options.trust, &host)?) } else { None };
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(Self { uri, host, port, tls, options: options.clone(), open: None })
    }

    /// The host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Connects.
    ///
    /// # Errors
    /// The first step that failed.
    pub async fn open(&mut self) -> Result<Opened, FetchError> {
        let began = Instant::now();
        let stream = self.connect().await?;
        let broken = |error: io::Error| FetchError::Connection(error.to_string());
        let (peer, connect_time) = (stream.peer_addr().map_err(broken)?, began.elapsed());
        // One request waits for one response: nothing is gained by holding bytes back.
        stream.set_nodelay(true).map_err(broken)?;
        let Some(config) = self.tls.clone() else {
            self.open = Some(handshake(stream).await?);
            return Ok(Opened { peer, connect_time, tls: None });
        };
        let began = Instant::now();
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| FetchError::Tls(format!("{} cannot be the name of a certificate", self.host)))?;
        let connecting = TlsConnector::from(config).connect(name, stream);
        let stream = self.within("the TLS handshake", connecting).await?;
        let stream = stream.map_err(|error| trust::explain(&error, &self.host, &self.options.trust))?;
        let version = stream.get_ref().1.protocol_version();
        let version = version.map_or_else(String::new, |version| format!("{version:?}"));
        let tls = Some((version, began.elapsed()));
        self.open = Some(handshake(stream).await?);
        Ok(Opened { peer, connect_time, tls })
    }

    /// Sends a request and returns when the head of the response has arrived. Connects first if necessary.
    ///
    /// # Errors
    /// The first step that failed.
    pub async fn send(&mut self, mut request: Request<Bytes>) -> Result<Response<Incoming>, FetchError> {
        // Not ready means that the other side has closed the connection, or that the response before was not read to its
        // end in time.
        let is_usable = match &mut self.open {
            Some(open) => tokio::time::timeout(self.options.timeout, open.client.ready())
                .await
                .is_ok_and(|ready| ready.is_ok()),
            None => false,
        };
        if !is_usable {
            self.open().await?;
        }
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let host = HeaderValue::from_str(authority)
            .map_err(|_| FetchError::Local(format!("{authority} cannot be sent as a host")))?;
        request.headers_mut().insert(HOST, host);
        let Some(open) = self.open.as_mut() else {
            return Err(FetchError::Connection("the connection is gone".to_owned()));
        };
        let sent = open.client.send_request(request.map(Full::new));
        let response = tokio::time::timeout(self.options.timeout, sent)
            .await
            .map_err(|_| self.timed_out("an answer"))?;
        response.map_err(|error| self.broken(&error))
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Errors
    /// The first step that failed.
    pub async fn exchange(&mut self, request: Request<Bytes>) -> Result<HttpResponse, FetchError> {
        let (head, body) = self.send(request).await?.into_parts();
        let whole = Limited::new(body, self.options.max_response_bytes).collect();
        let body = self.within("the rest of the answer", whole).await?;
        let body = body.map_err(|error| FetchError::Connection(format!("the answer broke off: {error}")))?;
        Ok(HttpResponse { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    async fn connect(&self) -> Result<TcpStream, FetchError> {
        let address = format!("{}:{}", self.host, self.port);
        let found =
            self.within("an answer from the DNS", lookup_host((self.host.as_str(), self.port))).await?;
        let found: Vec<_> = found.map_err(|_| FetchError::UnknownHost(self.host.clone()))?.collect();
        let stream = self.within("a connection", TcpStream::connect(found.as_slice())).await?;
        stream.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => FetchError::ConnectionRefused { address },
            _ => FetchError::Connection(format!("no way to {address}: {error}")),
        })
    }

    async fn within<T>(&self, what: &'static str, step: impl Future<Output = T>) -> Result<T, FetchError> {
        tokio::time::timeout(self.options.timeout, step).await.map_err(|_| self.timed_out(what))
    }

    fn timed_out(&self, what: &'static str) -> FetchError {
        FetchError::Timeout { what, seconds: self.options.timeout.as_secs() }
    }

    fn broken(&self, error: &hyper::Error) -> FetchError {
        let is_plain = self.tls.is_none();
        if error.is_parse() || (is_plain && error.is_incomplete_message()) {
            return FetchError::NotHttp { is_plain };
        }
        FetchError::Connection(format!("the connection broke: {error}"))
    }
}

async fn handshake<S>(stream: S) -> Result<Open, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| FetchError::Connection(error.to_string()))?;
    // An error of the connection reaches whoever waits for a response.
    let driver = AbortOnDropHandle::new(tokio::spawn(async { drop(connection.await) }));
    Ok(Open { client, _driver: driver })
}
