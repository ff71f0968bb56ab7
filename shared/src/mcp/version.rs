//! Protocol revisions and the two eras they belong to.

use std::fmt;

/// How a side speaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Era {
    /// 2026-07-28 and later: stateless, every request carries its own version and capabilities.
    Modern,
    /// Before: an `initialize` handshake, then a session.
    Legacy,
}

/// The revisions that are spoken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[expect(missing_docs, reason = "each is the date it is named by")]
pub enum ProtocolVersion {
    V2024_11_05,
    V2025_03_26,
    V2025_06_18,
    V2025_11_25,
    V2026_07_28,
}

/// The newest revision with a handshake.
pub const LATEST_LEGACY: ProtocolVersion = ProtocolVersion::V2025_11_25;
/// The newest revision without.
pub const LATEST_MODERN: ProtocolVersion = ProtocolVersion::V2026_07_28;

impl ProtocolVersion {
    /// All of them, oldest first.
    pub const ALL: [ProtocolVersion; 5] = [
        ProtocolVersion::V2024_11_05,
        ProtocolVersion::V2025_03_26,
        ProtocolVersion::V2025_06_18,
        ProtocolVersion::V2025_11_25,
        ProtocolVersion::V2026_07_28,
    ];

    /// As it stands on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProtocolVersion::V2024_11_05 => "2024-11-05",
            ProtocolVersion::V2025_03_26 => "2025-03-26",
            ProtocolVersion::V2025_06_18 => "2025-06-18",
            ProtocolVersion::V2025_11_25 => "2025-11-25",
            ProtocolVersion::V2026_07_28 => "2026-07-28",
        }
    }

    /// The revision of that name, if it is spoken.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == name)
    }

    /// The era it belongs to.
    pub fn era(self) -> Era {
        if self >= ProtocolVersion::V2026_07_28 { Era::Modern } else { Era::Legacy }
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The revision to answer an `initialize` with: the one asked for if it has a handshake, else our newest that has.
// MCP 2025-11-25 basic/lifecycle, Version Negotiation
pub fn negotiate(requested: &str) -> ProtocolVersion {
    ProtocolVersion::parse(requested).filter(|version| version.era() == Era::Legacy).unwrap_or(LATEST_LEGACY)
}

/// Whether a version, known or not, is of the modern era: a date from 2026-07-28 on.
pub fn looks_modern(name: &str) -> bool {
    let date = name.len() == LATEST_MODERN.as_str().len()
        && name
            .bytes()
            .enumerate()
            .all(|(i, byte)| if matches!(i, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() });
    date && name >= LATEST_MODERN.as_str()
}

#[cfg(test)]
mod tests {
    use super::{Era, LATEST_LEGACY, LATEST_MODERN, ProtocolVersion, looks_modern, negotiate};

    #[test]
    fn names_and_revisions_belong_together() {
        for version in ProtocolVersion::ALL {
            assert_eq!(ProtocolVersion::parse(version.as_str()), Some(version));
            assert_eq!(looks_modern(version.as_str()), version.era() == Era::Modern);
        }
        assert!(ProtocolVersion::ALL.is_sorted());
        assert_eq!((LATEST_LEGACY.era(), LATEST_MODERN.era()), (Era::Legacy, Era::Modern));
        assert_eq!(ProtocolVersion::parse("2025-11-2"), None);
    }

    #[test]
    fn a_handshake_settles_on_a_revision_that_has_one() {
        assert_eq!(negotiate("2024-11-05"), ProtocolVersion::V2024_11_05);
        for other in ["2026-07-28", "2099-01-01", "2023-01-01", "", "latest"] {
            assert_eq!(negotiate(other), ProtocolVersion::V2025_11_25, "{other}");
        }
    }

    #[test]
    fn only_a_date_can_look_modern() {
        assert!(looks_modern("2026-07-29") && looks_modern("2027-01-01"));
        for other in
            ["2026-07-27", "2026-7-28", "2026-07-280", "9999", "draft-2026", "2026/07/28", "２026-07-2"]
        {
            assert!(!looks_modern(other), "{other}");
        }
    }
}
