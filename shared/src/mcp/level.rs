//! How bad what a server logs is.

use super::meta;
use crate::Message;

/// The levels of log messages, least first.
// MCP 2025-11-25 server/utilities/logging, Log Levels (RFC 5424)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "each is the level of that name")]
pub enum Level {
    Debug,
    Info,
    Notice,
    Warning,
    Error,
    Critical,
    Alert,
    Emergency,
}

impl Level {
    /// The level of that name; there are no others.
    pub fn parse(name: &str) -> Option<Self> {
        ALL.into_iter().find(|level| level.as_str() == name)
    }

    /// The lowest level that `request` names in its `_meta`: without one the server sends it no log messages.
    // MCP 2026-07-28 server/utilities/logging
    pub fn wanted_by(request: &Message) -> Option<Self> {
        Self::parse(&request.meta_value(meta::LOG_LEVEL)?.as_str()?)
    }

    /// Whether this log message is of this level or a worse one; one of an unknown level counts as such.
    pub fn lets_through(self, log: &Message) -> bool {
        let level = log.param("level").and_then(|level| Self::parse(&level.as_str()?));
        level.is_none_or(|level| level >= self)
    }

    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }
}

const ALL: [Level; 8] = [
    Level::Debug,
    Level::Info,
    Level::Notice,
    Level::Warning,
    Level::Error,
    Level::Critical,
    Level::Alert,
    Level::Emergency,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_known_by_name_and_rise() {
        for pair in ALL.windows(2) {
            assert!(pair[0] < pair[1]);
        }
        assert!(ALL.into_iter().all(|level| Level::parse(level.as_str()) == Some(level)));
        assert_eq!(Level::parse("Warning"), None);
    }
}
