//! One page of a list result: the items as slices, with the key each is known by.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use crate::envelope::Value;
use crate::error::{ScanError, ScanErrorKind};
use crate::limits::Limits;
use crate::object::{self, Object};
use crate::span::Span;

/// A page of `tools/list`, `prompts/list`, `resources/list`, `resources/templates/list` or `tasks/list`.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// The items that can be served, in the server's order.
    pub items: Vec<Item>,
    /// Where the next page starts; an empty cursor is one too.
    // MCP 2025-11-25 server/utilities/pagination: cursors are opaque
    pub next_cursor: Option<String>,
    /// How many items had no key, or were no objects that can be read, and were left out.
    pub left_out: usize,
}

/// One item of a list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Item {
    /// The JSON text of the item, a slice of the result.
    pub raw: Bytes,
    /// Its name, URI, URI template or task id.
    pub key: String,
    /// Where the value of the key stands in `raw`.
    pub key_span: Span,
}

/// Why a page cannot be read.
#[derive(Clone, Debug)]
pub enum PageError {
    /// JSON of another type than an object as a result, or than an array as its list.
    WrongType {
        /// The key of the list; `None` for the result itself.
        list_key: Option<String>,
        /// The type that it has, in words.
        found: &'static str,
    },
    /// More items than [`PAGE_ITEMS`], under this key.
    TooManyItems(String),
    /// No JSON, or what the limits refuse.
    Unreadable(ScanError),
}

/// Most items taken from one page. Real servers send up to some hundred in all.
pub const PAGE_ITEMS: usize = 10_000;

impl ListPage {
    /// Reads the list under `list_key` of a `result`. A result without it is an empty page.
    ///
    /// # Errors
    /// When the result is no object, its list no array, or the page has more than [`PAGE_ITEMS`].
    pub fn scan(result: &Bytes, list_key: &str, limits: &Limits) -> Result<ListPage, PageError> {
        let whole = Span::all(result);
        expect_type(b'{', result, (None, whole))?;
        let page = Object::scan(result, whole, limits).map_err(PageError::Unreadable)?;
        let next_cursor = page.get(result, "nextCursor").and_then(|span| Value::new(result, span).as_str());
        let next_cursor = next_cursor.map(Cow::into_owned);
        let spans = match page.get(result, list_key) {
            Some(list) => {
                expect_type(b'[', result, (Some(list_key), list))?;
                object::elements(result, list, limits, PAGE_ITEMS).map_err(|error| match error.kind {
                    ScanErrorKind::TooManyMembers => PageError::TooManyItems(list_key.to_owned()),
                    _ => PageError::Unreadable(error),
                })?
            }
            None => Vec::new(),
        };
        let item_key = item_key(list_key);
        let items: Vec<Item> =
            spans.iter().filter_map(|span| Item::scan(span.slice(result), item_key, limits)).collect();
        let left_out = spans.len() - items.len();
        Ok(ListPage { items, next_cursor, left_out })
    }
}

impl Item {
    /// The same with a text of its own, which holds nothing else of the result.
    #[must_use]
    pub fn detached(self) -> Self {
        Self { raw: Bytes::copy_from_slice(&self.raw), ..self }
    }

    /// About what it takes once it is [detached](Self::detached).
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.raw.len() + self.key.len()
    }

    fn scan(raw: Bytes, item_key: &str, limits: &Limits) -> Option<Item> {
        let object = Object::scan(&raw, Span::all(&raw), limits).ok()?;
        let key_span = object.get(&raw, item_key)?;
        let key = Value::new(&raw, key_span).as_str()?.into_owned();
        Some(Item { raw, key, key_span })
    }
}

/// Checks the type of a value by its first byte, which alone says it in valid JSON.
fn expect_type(first: u8, result: &[u8], (list_key, value): (Option<&str>, Span)) -> Result<(), PageError> {
    let found = match value.of(result).trim_ascii_start().first() {
        Some(byte) if *byte == first => return Ok(()),
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) | None => return Ok(()), // no JSON, as the scan will say
    };
    Err(PageError::WrongType { list_key: list_key.map(str::to_owned), found })
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongType { list_key: None, found } => {
                write!(f, "the result must be an object, and is {found}")
            }
            Self::WrongType { list_key: Some(key), found } => {
                write!(f, "`{key}` must be an array, and is {found}")
            }
            Self::TooManyItems(key) => write!(
                f,
                "`{key}` has more than {PAGE_ITEMS} items, the most of one page; send them in pages, with `nextCursor`"
            ),
            Self::Unreadable(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for PageError {}

fn item_key(list_key: &str) -> &'static str {
    match list_key {
        "resources" => "uri",
        "resourceTemplates" => "uriTemplate",
        "tasks" => "taskId",
        _ => "name",
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{ListPage, PAGE_ITEMS};
    use crate::limits::Limits;

    fn scan(result: &'static str, key: &str) -> ListPage {
        ListPage::scan(&Bytes::from_static(result.as_bytes()), key, &Limits::default()).unwrap()
    }

    #[test]
    fn items_are_slices_with_their_key() {
        let result = r#"{"nextCursor":"","tools":[{"description":"d","name":"a\u0062"} , {"name":"c"}]}"#;
        let page = scan(result, "tools");
        let keys: Vec<_> = page.items.iter().map(|item| item.key.as_str()).collect();
        assert_eq!((keys, page.next_cursor.as_deref(), page.left_out), (vec!["ab", "c"], Some(""), 0));
        let first = page.items.first().unwrap();
        assert_eq!(first.raw, r#"{"description":"d","name":"a\u0062"}"#);
        assert_eq!(first.key_span.of(&first.raw), br#""a\u0062""#);
    }

    #[test]
    fn resources_are_known_by_uri_and_templates_by_template() {
        let result = r#"{"resources":[{"uri":"a:b","name":"n"}],"resourceTemplates":[{"uriTemplate":"a:{b}"}],"nextCursor":7}"#;
        for (list, key) in [("resources", "a:b"), ("resourceTemplates", "a:{b}")] {
            let page = scan(result, list);
            assert_eq!(page.items.first().unwrap().key, key);
            assert_eq!(page.next_cursor, None);
        }
    }

    #[test]
    fn items_that_cannot_be_named_are_left_out() {
        let page = scan(r#"{"prompts":[{"name":1},7,{},{"name":"a","name":"b"},{"name":"ok"}]}"#, "prompts");
        assert_eq!((page.items.len(), page.left_out), (1, 4));
        assert!(scan("{}", "tools").items.is_empty());
    }

    #[test]
    fn page_that_cannot_be_read_says_why() {
        let many = format!(r#"{{"tools":[{}{{}}]}}"#, "{},".repeat(PAGE_ITEMS));
        for (wrong, why) in [
            (r#"{"tools":{}}"#, "`tools` must be an array, and is an object"),
            (r#"{"tools": "x"}"#, "`tools` must be an array, and is a string"),
            (r#"{"tools":-1}"#, "`tools` must be an array, and is a number"),
            (r#"{"tools":false}"#, "`tools` must be an array, and is a boolean"),
            (r#"{"tools":null}"#, "`tools` must be an array, and is null"),
            (" []", "the result must be an object, and is an array"),
            ("7", "the result must be an object, and is a number"),
            (r#"{"tools":[],"a":x}"#, "not valid JSON at byte 16"),
            ("x", "not valid JSON at byte 0"),
            (
                &many,
                "`tools` has more than 10000 items, the most of one page; send them in pages, with `nextCursor`",
            ),
        ] {
            let error =
                ListPage::scan(&Bytes::copy_from_slice(wrong.as_bytes()), "tools", &Limits::default());
            assert_eq!(error.unwrap_err().to_string(), why);
        }
    }
}
