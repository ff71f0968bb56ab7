//! Does a URI fit an RFC 6570 template? Enough of the matching to route a read to the server that offers it.

/// A template as literals and the gaps between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    head: String,
    rest: Vec<(Gap, String)>,
}

/// What an expression may have expanded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    /// `{name}`: reserved characters are percent-encoded, so no `/`, `?` or `#` (RFC 6570 §3.2.2).
    Simple,
    /// An expression with an operator (`+ # . / ; ? &`): anything, or nothing.
    Any,
}

impl Template {
    /// `None` when a brace is left open: such a template fits nothing.
    pub(super) fn parse(template: &str) -> Option<Self> {
        let (head, mut left) = match template.split_once('{') {
            Some((head, left)) => (head, Some(left)),
            None => (template, None),
        };
        let mut rest = Vec::new();
        while let Some(expression) = left {
            let (inner, after) = expression.split_once('}')?;
            let gap =
                if inner.starts_with(['+', '#', '.', '/', ';', '?', '&']) { Gap::Any } else { Gap::Simple };
            let (literal, next) = match after.split_once('{') {
                Some((literal, next)) => (literal, Some(next)),
                None => (after, None),
            };
            rest.push((gap, literal.to_owned()));
            left = next;
        }
        Some(Self { head: head.to_owned(), rest })
    }

    /// Whether the template could have expanded to `uri`. Linear in the URI: each gap ends at the first
    /// place where its literal follows, the last one at the end.
    pub(super) fn fits(&self, uri: &str) -> bool {
        let Some(mut left) = uri.strip_prefix(self.head.as_str()) else { return false };
        let Some((last, between)) = self.rest.split_last() else { return left.is_empty() };
        for (gap, literal) in between {
            let Some(at) = left.find(literal.as_str()) else { return false };
            let (filled, after) = left.split_at(at);
            if !gap.takes(filled) {
                return false;
            }
            left = after.get(literal.len()..).unwrap_or_default();
        }
        left.strip_suffix(last.1.as_str()).is_some_and(|filled| last.0.takes(filled))
    }
}

impl Gap {
    fn takes(self, filled: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Simple => !filled.is_empty() && !filled.contains(['/', '?', '#']),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fits_what_the_template_could_have_made() {
        for (template, uri, fits) in [
            ("demo://item/{id}", "demo://item/7", true),
            ("demo://item/{id}", "demo://item/7/parts", false),
            ("demo://item/{id}", "demo://item/", false),
            ("demo://item/{id}", "demo://other/7", false),
            ("demo://{a}/to/{b}", "demo://x/to/y", true),
            ("demo://{a}/to/{b}.txt", "demo://x/to/y.txt", true),
            ("demo://{a}/to/{b}.txt", "demo://x/to/y.md", false),
            ("file://{+path}", "file:///etc/hosts", true),
            ("search://q{?term,page}", "search://q?term=a&page=2", true),
            ("search://q{?term,page}", "search://q", true),
            ("plain://x", "plain://x", true),
            ("plain://x", "plain://xy", false),
        ] {
            assert_eq!(Template::parse(template).unwrap().fits(uri), fits, "{template} {uri}");
        }
        assert_eq!(Template::parse("broken://{x"), None);
    }
}
