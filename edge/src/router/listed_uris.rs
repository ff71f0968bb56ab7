//! The URIs that the servers of one view list, with other spellings of them.
//!
//! A URI is looked up byte for byte; only what is not listed is compared by its canonical form. So a spelling that is
//! listed leads to its own server whatever else is listed, and costs one lookup without an allocation. A form that two
//! listed URIs share leads nowhere, because nobody can tell which of them is meant.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::canonical_uri::canonical;
use super::server_set::ServerIndex;

/// The listed URIs of one view.
#[derive(Debug, Default)]
pub(super) struct ListedUris {
    exact: HashMap<String, ServerIndex>,
    /// By their canonical form, the URIs that are listed in another one; `None` if several are.
    respelled: HashMap<String, Option<(String, ServerIndex)>>,
}

/// A listed URI before it is added to the views that show it.
pub(super) struct ListedUri<'i> {
    uri: &'i str,
    /// Its canonical form, if that is not how it is listed.
    form: Option<String>,
}

impl<'i> ListedUri<'i> {
    pub(super) fn new(uri: &'i str) -> Self {
        Self { uri, form: canonical(uri).filter(|form| form != uri) }
    }
}

/// Where a URI leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located<'v> {
    /// The server that has the resource.
    pub server: ServerIndex,
    /// The server's own spelling of the URI, where the one that was looked up is another.
    pub listed: Option<&'v str>,
}

impl Located<'_> {
    /// A resource of `server` under the URI that was looked up.
    pub(super) fn at(server: ServerIndex) -> Self {
        Self { server, listed: None }
    }
}

impl ListedUris {
    /// Adds a URI. One that is there already stays with its server, which is returned.
    pub(super) fn add(&mut self, listed: &ListedUri<'_>, server: ServerIndex) -> Option<ServerIndex> {
        if let Some(owner) = self.exact.get(listed.uri) {
            return Some(*owner);
        }
        self.exact.insert(listed.uri.to_owned(), server);
        if let Some(form) = &listed.form {
            match self.respelled.entry(form.clone()) {
                Entry::Vacant(entry) => drop(entry.insert(Some((listed.uri.to_owned(), server)))),
                Entry::Occupied(mut entry) => *entry.get_mut() = None,
            }
        }
        None
    }

    /// Where `uri` leads, in whatever spelling.
    pub(super) fn find(&self, uri: &str) -> Option<Located<'_>> {
        if let Some(server) = self.exact.get(uri) {
            return Some(Located::at(*server));
        }
        let form = canonical(uri)?;
        match (self.exact.get_key_value(&form), self.respelled.get(&form)) {
            (Some((listed, server)), None) | (None, Some(Some((listed, server)))) => {
                Some(Located { server: *server, listed: Some(listed) })
            }
            _ => None,
        }
    }

    /// All of them, as they are listed.
    pub(super) fn iter(&self) -> impl Iterator<Item = &String> {
        self.exact.keys()
    }

    /// About the bytes that the other spellings take.
    pub(super) fn form_bytes(&self) -> usize {
        let listed = |listed: &Option<(String, ServerIndex)>| listed.as_ref().map_or(0, |(uri, _)| uri.len());
        self.respelled.iter().map(|(form, uri)| form.len() + listed(uri) + FORM_COST).sum()
    }
}

/// Bytes of a form beside its text: two strings and the place in the table.
const FORM_COST: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listed_spelling_goes_first_and_an_ambiguous_form_leads_nowhere() {
        let (a, b) = (ServerIndex::new(0), ServerIndex::new(1));
        let mut uris = ListedUris::default();
        for (uri, server, owner) in [
            ("x://a/b c", a, None),
            ("x://a/b c", b, Some(a)),
            ("x://a/plain", b, None),
            ("x://a/%7eu", a, None),
            ("x://a/~u", b, None),
            ("x://a/d e", a, None),
            ("x://a/./d e", a, None),
        ] {
            assert_eq!(uris.add(&ListedUri::new(uri), server), owner, "{uri}");
        }
        for (uri, found) in [
            ("x://a/b c", Some((a, None))),
            ("x://a/b%20c", Some((a, Some("x://a/b c")))),
            ("X://a/./b%20c", Some((a, Some("x://a/b c")))),
            ("X://a/pl%61in", Some((b, Some("x://a/plain")))),
            ("x://a/~u", Some((b, None))),
            ("x://a/%7eu", Some((a, None))),
            ("x://a/%7Eu", None),
            ("x://a/./d e", Some((a, None))),
            ("x://A/plain", None),
            ("x://a/d%20e", None),
            ("x://a/none", None),
            ("none", None),
        ] {
            let found = found.map(|(server, listed)| Located { server, listed });
            assert_eq!(uris.find(uri), found, "{uri}");
        }
        assert_eq!(uris.respelled.len(), 3, "what is listed in its canonical form is there once");
        let texts = ["x://a/b%20c", "x://a/b c", "x://a/~u", "x://a/%7eu", "x://a/d%20e"].concat();
        assert_eq!(uris.form_bytes(), texts.len() + 3 * FORM_COST);
    }
}
