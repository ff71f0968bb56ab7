//! One page of a list result: the items as slices, with the key each is known by.

use std::borrow::Cow;

use bytes::Bytes;

use crate::envelope::Value;
use crate::error::ScanError;
use crate::limits::Limits;
use crate::object::{self, Object};
use crate::span::Span;

/// A page of `tools/list`, `prompts/list`, `resources/list` or `resources/templates/list`.
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
    /// Its name, URI or URI template.
    pub key: String,
    /// Where the value of the key stands in `raw`.
    pub key_span: Span,
}

/// Most items taken from one page. Real servers send up to some hundred in all.
pub const PAGE_ITEMS: usize = 10_000;

impl ListPage {
    /// Reads the list under `list_key` of a `result`. A result without it is an empty page.
    ///
    /// # Errors
    /// When the result is no object, its list no array, or the page has more than [`PAGE_ITEMS`].
    pub fn scan(result: &Bytes, list_key: &str, limits: &Limits) -> Result<ListPage, ScanError> {
        let page = Object::scan(result, Span::all(result), limits)?;
        let next_cursor = page.get(result, "nextCursor").and_then(|span| Value::new(result, span).as_str());
        let next_cursor = next_cursor.map(Cow::into_owned);
        let spans = match page.get(result, list_key) {
            Some(list) => object::elements(result, list, limits, PAGE_ITEMS)?,
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

fn item_key(list_key: &str) -> &'static str {
    match list_key {
        "resources" => "uri",
        "resourceTemplates" => "uriTemplate",
        _ => "name",
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::ListPage;
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
        for wrong in ["[]", r#"{"tools":{}}"#] {
            assert!(
                ListPage::scan(&Bytes::from_static(wrong.as_bytes()), "tools", &Limits::default()).is_err()
            );
        }
    }
}
