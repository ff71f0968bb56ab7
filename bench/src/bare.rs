//! The bare limit: hyper on tokio, reading each request to its end and answering bytes that are there
//! already.

use std::convert::Infallible;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Answers every request at `address` with the content of the file `body`, until it is killed.
pub(crate) async fn serve(address: &str, body: &str) -> Result<()> {
    let body = Bytes::from(std::fs::read(body)?);
    let listener = TcpListener::bind(address).await?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(connection(stream, body.clone()));
            }
            Some(_) = connections.join_next() => {} // cancel-safe; only makes room
        }
    }
}

async fn connection(stream: TcpStream, body: Bytes) {
    // Without it a second small write would wait for the client's delayed ACK.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let body = body.clone();
        async move {
            // A client that breaks off is not this server's concern.
            let _ = request.into_body().collect().await;
            let mut response = Response::new(Full::new(body));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            Ok::<_, Infallible>(response)
        }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}
