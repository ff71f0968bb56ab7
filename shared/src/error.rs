//! Why a message is refused: one kind for each rule, so that the answer can name what to change.

use std::fmt;

use crate::id::RequestId;
use crate::scanner::{Cause, Fault};

/// Why a message was refused.
#[derive(Clone, Debug)]
pub struct ScanError {
    /// What is wrong.
    pub kind: ScanErrorKind,
    /// Offset of the byte where the error was found.
    pub at: usize,
    /// The id of the message, to be echoed in the answer.
    pub id: Option<RequestId>,
    /// Whether it was meant as a response, as far as its top-level keys show it: `result` or `error`, and either `jsonrpc` or
    /// nothing but the id; or `jsonrpc` and the id alone. Log lines may have ids too.
    pub is_response: bool,
    /// Whether it was meant as a request or notification, by the same signs: `method` and `jsonrpc`, and no `result` or
    /// `error`.
    pub is_request: bool,
}

/// What can be wrong with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanErrorKind {
    /// Not JSON.
    Syntax,
    /// Bytes, a key or a method that are not Unicode text.
    NotUtf8,
    /// More objects and arrays open at once than `Limits::depth`.
    TooDeep,
    /// Two equal keys in an object that is read.
    DuplicateKey,
    /// More members in an object that is read than `Limits::members`.
    TooManyMembers,
    /// An id that is neither an integer nor a string.
    BadId,
    /// A batch: an array at the top level.
    Batch,
    /// JSON, but neither a request nor a notification nor a response.
    NotAMessage,
}

impl ScanError {
    pub(crate) fn new(kind: ScanErrorKind, at: usize) -> Self {
        ScanError { kind, at, id: None, is_response: false, is_request: false }
    }
}

impl From<Fault> for ScanError {
    fn from(fault: Fault) -> Self {
        let kind = match fault.cause {
            Cause::Syntax => ScanErrorKind::Syntax,
            Cause::NotUtf8 => ScanErrorKind::NotUtf8,
            Cause::TooDeep => ScanErrorKind::TooDeep,
        };
        ScanError::new(kind, fault.at)
    }
}

impl fmt::Display for ScanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match self.kind {
            ScanErrorKind::Syntax => write!(f, "not valid JSON at byte {at}"),
            ScanErrorKind::NotUtf8 => write!(f, "not valid UTF-8 text at byte {at}"),
            ScanErrorKind::TooDeep => write!(f, "nested too deep at byte {at}; send a flatter message"),
            ScanErrorKind::DuplicateKey => {
                write!(f, "the same key twice in one object at byte {at}; send it once")
            }
            ScanErrorKind::TooManyMembers => {
                write!(f, "too many members in one object at byte {at}; send fewer")
            }
            ScanErrorKind::BadId => write!(f, "the id at byte {at} must be an integer or a string"),
            ScanErrorKind::Batch => write!(f, "an array of messages; send one message"),
            ScanErrorKind::NotAMessage => {
                write!(f, "not a JSON-RPC 2.0 request, notification or response: see byte {at}")
            }
        }
    }
}

impl std::error::Error for ScanError {}
