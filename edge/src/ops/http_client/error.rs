//! Why a request got no response.

use std::fmt;

/// What failed on the way to a response. The message says what happened; callers add what to do about it.
#[derive(Debug)]
pub enum FetchError {
    /// The name does not resolve.
    UnknownHost(String),
    /// Nobody listens there.
    ConnectionRefused {
        /// Host and port.
        address: String,
    },
    /// A step took too long.
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long, in seconds.
        seconds: u64,
    },
    /// The connection failed or broke in another way.
    Connection(String),
    /// The TLS handshake failed, or the certificate is not trusted.
    Tls(String),
    /// The other side does not answer in HTTP.
    NotHttp {
        /// Whether it was asked without TLS, and may expect TLS.
        is_plain: bool,
    },
    /// The request or the certificates to trust cannot be used; nothing was sent.
    Local(String),
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownHost(host) => {
                write!(f, "the name {host} does not resolve; check how it is spelled, and the DNS")
            }
            Self::ConnectionRefused { address } => write!(f, "nobody listens at {address}"),
            Self::Timeout { what, seconds } => write!(f, "{what} did not come within {seconds} s"),
            Self::Connection(why) | Self::Local(why) => f.write_str(why),
            Self::Tls(why) => write!(f, "TLS: {why}"),
            Self::NotHttp { is_plain: true } => {
                f.write_str("it does not answer in HTTP; if it speaks TLS, write https://")
            }
            Self::NotHttp { is_plain: false } => f.write_str("it does not answer in HTTP"),
        }
    }
}

impl std::error::Error for FetchError {}
