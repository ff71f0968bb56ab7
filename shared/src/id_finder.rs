//! Finds the id of a message that is too long to be held, or that the scan refused. Reads bytes as they come, in constant
//! memory, and checks nothing; the id only serves to report the failure to the request that it belongs to.

use crate::envelope::Kind;
use crate::id::RequestId;
use crate::text;

/// The longest id that is found, quotes included. Ids in use are below 40 bytes.
const ID_BYTES: usize = 256;

/// A state machine over the bytes of one message.
#[derive(Debug, Default)]
pub(crate) struct IdFinder {
    depth: u64,
    place: Place,
    /// Inside a string, and whether the last byte was a backslash that escapes the next.
    string: Option<Escape>,
    /// The key or id that is being read.
    token: Vec<u8>,
    ids: Ids,
    version: bool,
    method: bool,
    params: bool,
    answer: bool,
    /// There are members that JSON-RPC does not define.
    foreign: bool,
}

/// The position among the top-level members.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
enum Place {
    #[default]
    Outside,
    BeforeKey,
    InKey,
    AfterIdKey,
    BeforeId,
    InId,
    Elsewhere,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Escape {
    No,
    Next,
}

#[derive(Debug, Default)]
enum Ids {
    #[default]
    None,
    One(RequestId),
    /// There are different ones, or one that is not a valid id, so it is unknown whose message it is. A parser takes
    /// the first or the last: if a message ended the wrong request, that one's own answer would find it gone.
    Unclear,
}

impl IdFinder {
    /// Reads a whole message.
    pub(crate) fn all(bytes: &[u8]) -> IdFinder {
        let mut finder = IdFinder::default();
        finder.feed(bytes);
        finder
    }

    /// The id at the top level, if there is exactly one, however often.
    pub(crate) fn id(self) -> Option<RequestId> {
        match self.ids {
            Ids::One(id) => Some(id),
            Ids::None | Ids::Unclear => None,
        }
    }

    /// The kind of the message, as far as its top-level keys show it.
    pub(crate) fn kind(&self) -> Option<Kind> {
        match (self.method, self.answer, &self.ids) {
            (true, false, Ids::None) => Some(Kind::Notification),
            (true, false, _) => Some(Kind::Request),
            (false, true, _) => Some(Kind::Response),
            _ => None,
        }
    }

    /// Whether it is a response: it has a result or an error and no method, and either `jsonrpc` or no foreign members. With
    /// `jsonrpc` and an id and nothing else it is one that lost its result: some libraries leave out what is empty.
    pub(crate) fn is_response(&self) -> bool {
        let is_bare = self.version && matches!(self.ids, Ids::One(_)) && !self.params && !self.foreign;
        !self.method && (is_bare || self.answer && (self.version || !self.foreign))
    }

    /// Whether it is a request or notification. Log lines may have a method too, so `jsonrpc` is required.
    pub(crate) fn is_request(&self) -> bool {
        self.method && !self.answer && self.version
    }

    /// Reads the next bytes of the message.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            bytes = rest;
            if let Some(escape) = self.string {
                self.in_string(escape, byte);
                if self.string == Some(Escape::No) && self.place == Place::Elsewhere {
                    let skip = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
                    bytes = bytes.get(skip..).unwrap_or_default();
                }
            } else {
                self.outside_string(byte);
            }
        }
    }

    fn in_string(&mut self, escape: Escape, byte: u8) {
        self.keep(byte);
        self.string = match (escape, byte) {
            (Escape::Next, _) => Some(Escape::No),
            (Escape::No, b'\\') => Some(Escape::Next),
            (Escape::No, b'"') => None,
            (Escape::No, _) => Some(Escape::No),
        };
        if self.string.is_none() {
            match self.place {
                Place::InKey => self.key_ends(),
                Place::InId => self.id_ends(),
                _ => {}
            }
        }
    }

    fn outside_string(&mut self, byte: u8) {
        match (byte, self.place) {
            (b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n', Place::InId) => self.id_ends(),
            (b'{' | b'[', Place::BeforeId) => self.id_is_none(),
            _ => {}
        }
        match (byte, self.place) {
            (b' ' | b'\t' | b'\r' | b'\n', _) => {}
            (b'{' | b'[', _) => {
                self.depth += 1;
                if byte == b'{' && self.place == Place::Outside && self.depth == 1 {
                    self.place = Place::BeforeKey;
                }
            }
            (b'}' | b']', _) => self.depth = self.depth.saturating_sub(1),
            _ if self.depth != 1 => self.string = (byte == b'"').then_some(Escape::No),
            (b',', Place::Elsewhere) => self.place = Place::BeforeKey,
            (b':', Place::AfterIdKey) => self.place = Place::BeforeId,
            (_, Place::InId) => self.keep(byte),
            (_, Place::BeforeId) => self.begin(Place::InId, byte),
            (b'"', Place::BeforeKey) => self.begin(Place::InKey, byte),
            (b'"', _) => self.string = Some(Escape::No),
            _ => {}
        }
    }

    fn begin(&mut self, place: Place, byte: u8) {
        self.place = place;
        self.string = (byte == b'"').then_some(Escape::No);
        self.token.clear();
        self.keep(byte);
    }

    /// Keeps one byte more than the limit, which marks a token that was cut.
    fn keep(&mut self, byte: u8) {
        if matches!(self.place, Place::InKey | Place::InId) && self.token.len() <= ID_BYTES {
            self.token.push(byte);
        }
    }

    fn key_ends(&mut self) {
        self.place = Place::Elsewhere;
        match text::decode(&self.token).as_deref() {
            Some("id") => self.place = Place::AfterIdKey,
            Some("jsonrpc") => self.version = true,
            Some("method") => self.method = true,
            Some("result" | "error") => self.answer = true,
            Some("params") => self.params = true,
            _ => self.foreign = true,
        }
    }

    fn id_ends(&mut self) {
        self.place = Place::Elsewhere;
        let id = if self.token.len() > ID_BYTES { None } else { RequestId::parse(&self.token) };
        self.ids = match (std::mem::take(&mut self.ids), id) {
            (Ids::None, Some(id)) => Ids::One(id),
            (Ids::One(known), Some(id)) if known == id => Ids::One(id),
            _ => Ids::Unclear,
        };
    }

    fn id_is_none(&mut self) {
        self.place = Place::Elsewhere;
        self.ids = Ids::Unclear;
    }
}

#[cfg(test)]
mod tests {
    use super::{ID_BYTES, IdFinder};
    use crate::envelope::Kind;

    fn id(text: &str) -> Option<String> {
        IdFinder::all(text.as_bytes()).id().map(|id| id.to_string())
    }

    #[test]
    fn single_id_at_the_top_level_is_found() {
        assert_eq!(id(r#"{"a":{"id":1},"b":[{"id":2}],"c":"\"id\":3","id" : 4 }"#).as_deref(), Some("4"));
        assert_eq!(id(r#"{"\u0069d":"x","a":"#).as_deref(), Some(r#""x""#));
        assert_eq!(id(r#"{"id":1,"a":2,"id":3}"#), None);
        assert_eq!(id(r#"{"id":1,"a":2,"id":1}"#).as_deref(), Some("1"));
        for unclear in [r#"{"id":1,"id":2,"id":1}"#, r#"{"id":1,"id":"1"}"#, r#"{"id":1,"id":null}"#] {
            assert_eq!(id(unclear), None, "{unclear}");
        }
        assert_eq!(id(r#"{"id":[1],"a":2}"#), None);
        assert_eq!(id(r#"{"id":null}"#), None);
        assert_eq!(id(r#"[{"id":1}]"#), None);
        assert_eq!(id(r#"{"id" 1}"#), None);
        assert_eq!(id("npm warn config"), None);
    }

    #[test]
    fn log_line_in_json_is_not_a_response() {
        let is = |text: &str| IdFinder::all(text.as_bytes()).is_response();
        assert!(
            is(r#"{"jsonrpc":"2.0","id":1,"result":{"a":"#) && is(r#"{"error":1,"id":1,"jsonrpc":"1.0"}"#)
        );
        assert!(is(r#"{"id":1,"result":{"level":"a","b":"#) && is(r#"{"error":1,"id":1}"#));
        assert!(!is(r#"{"level":"error","error":"x","id":1}"#) && !is(r#"{"id":1,"result":{},"msg":"#));
        assert!(!is(r#"{"jsonrpc":"2.0","id":1,"method":"m","result":{}}"#));
    }

    #[test]
    fn response_that_lost_its_result_is_one() {
        let is = |text: &str| IdFinder::all(text.as_bytes()).is_response();
        assert!(is(r#"{"jsonrpc":"2.0","id":1}"#) && is(r#"{"id":1,"jsonrpc":"2.0","id":1}"#));
        for other in [
            r#"{"jsonrpc":"2.0"}"#,
            r#"{"id":1}"#,
            r#"{"jsonrpc":"2.0","id":null}"#,
            r#"{"jsonrpc":"2.0","id":1,"level":"debug"}"#,
            r#"{"jsonrpc":"2.0","id":1,"params":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#,
        ] {
            assert!(!is(other), "{other}");
        }
    }

    #[test]
    fn request_needs_its_method_and_version() {
        let is = |text: &str| IdFinder::all(text.as_bytes()).is_request();
        assert!(is(r#"{"jsonrpc":"2.0","id":1,"method":"m","params":[1]}"#));
        assert!(is(r#"{"method":"m","jsonrpc":"1.0","x":{"result":"#));
        assert!(!is(r#"{"id":1,"method":"GET","path":"/"}"#) && !is(r#"{"jsonrpc":"2.0","id":1}"#));
        assert!(!is(r#"{"jsonrpc":"2.0","id":1,"method":"m","error":{}}"#));
    }

    #[test]
    fn id_over_the_bound_is_not_found() {
        let fits = format!("\"{}\"", "x".repeat(ID_BYTES - 2));
        assert_eq!(id(&format!("{{\"id\":{fits}}}")), Some(fits));
        let finder = IdFinder::all(format!("{{\"id\":\"{}\"}}", "x".repeat(1 << 20)).as_bytes());
        assert!(finder.token.capacity() <= 2 * ID_BYTES, "memory grows with the message");
        assert!(finder.id().is_none());
    }

    #[test]
    fn kind_is_derived_from_the_keys() {
        let kind = |text: &str| IdFinder::all(text.as_bytes()).kind();
        assert_eq!(kind(r#"{"id":1,"method":"a""#), Some(Kind::Request));
        assert_eq!(kind(r#"{"method":"a","params":{"id":1}}"#), Some(Kind::Notification));
        assert_eq!(kind(r#"{"result":{"method":"a"},"id":1}"#), Some(Kind::Response));
        assert_eq!(kind(r#"{"error":{}}"#), Some(Kind::Response));
        assert_eq!(kind(r#"{"id":1}"#), None);
    }
}
