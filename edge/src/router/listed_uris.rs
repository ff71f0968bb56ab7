//! The URIs that the servers of one view list, with other spellings of them.
//!
//! A URI is looked up byte for byte; only what is not listed is compared by its canonical form. So a spelling that is
//! listed leads to its own server whatever else is listed, and costs one lookup without an allocation. A form that several
//! listed URIs share leads to their server, which gets what the client sent. If they are of different servers, nobody can
//! tell which is meant: then the form counts as not listed, and templates are tried next.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::canonical_uri::canonical;
use super::server_set::ServerIndex;

/// The listed URIs of one view.
#[derive(Debug, Default)]
pub(super) struct ListedUris {
    exact: HashMap<String, ServerIndex>,
    /// By their canonical form, the URIs that are listed in another one.
    respelled: HashMap<String, Respelled>,
}

/// The URIs with one canonical form that are listed in another one.
#[derive(Debug, PartialEq)]
enum Respelled {
    One(String, ServerIndex),
    /// Several, all of this server.
    Several(ServerIndex),
    /// Of these servers, and maybe of more.
    Contested([ServerIndex; 2]),
}

impl Respelled {
    /// Adds a URI of `server`.
    fn add(&mut self, server: ServerIndex) {
        match *self {
            Self::One(_, owner) | Self::Several(owner) if owner == server => *self = Self::Several(server),
            Self::One(_, owner) | Self::Several(owner) => *self = Self::Contested([owner, server]),
            Self::Contested(_) => {}
        }
    }

    /// Two servers of these URIs and of the one that `owner` lists in the canonical form.
    fn contestants(&self, owner: Option<ServerIndex>) -> Option<[ServerIndex; 2]> {
        match *self {
            Self::One(_, server) | Self::Several(server) => {
                owner.filter(|owner| *owner != server).map(|owner| [owner, server])
            }
            Self::Contested(servers) => Some(servers),
        }
    }
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
    /// The server's own spelling of the URI, where the one that was looked up is another. Not if the server lists several.
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
                Entry::Vacant(entry) => drop(entry.insert(Respelled::One(listed.uri.to_owned(), server))),
                Entry::Occupied(mut entry) => entry.get_mut().add(server),
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
            (Some((listed, server)), None) | (None, Some(Respelled::One(listed, server))) => {
                Some(Located { server: *server, listed: Some(listed) })
            }
            (owner, Some(Respelled::One(_, server) | Respelled::Several(server))) => {
                let is_only = owner.is_none_or(|(_, owner)| owner == server);
                is_only.then_some(Located::at(*server))
            }
            (_, Some(Respelled::Contested(_))) | (None, None) => None,
        }
    }

    /// The canonical forms that URIs of different servers share, each with two of the servers.
    pub(super) fn contested_forms(&self) -> impl Iterator<Item = (&String, [ServerIndex; 2])> {
        self.respelled.iter().filter_map(|(form, uris)| {
            let owner = self.exact.get(form).copied();
            Some((form, uris.contestants(owner)?))
        })
    }

    /// All of them, as they are listed.
    pub(super) fn iter(&self) -> impl Iterator<Item = &String> {
        self.exact.keys()
    }

    /// About the bytes that the other spellings take.
    pub(super) fn form_bytes(&self) -> usize {
        let listed = |uris: &Respelled| if let Respelled::One(uri, _) = uris { uri.len() } else { 0 };
        self.respelled.iter().map(|(form, uris)| form.len() + listed(uris) + FORM_COST).sum()
    }
}

/// Bytes of a form beside its text: two strings and the place in the table.
const FORM_COST: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_listed_spelling_goes_first_and_a_form_leads_to_the_only_server_that_lists_it() {
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
            ("x://a/./~f", b, None),
            ("x://a/~f", b, None),
            ("x://a/g h", a, None),
            ("x://a/./g h", b, None),
            ("x://a/././g h", b, None),
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
            ("x://a/d%20e", Some((a, None))),
            ("x://a/%7Ef", Some((b, None))),
            ("x://a/g%20h", None),
            ("x://a/none", None),
            ("none", None),
        ] {
            let found = found.map(|(server, listed)| Located { server, listed });
            assert_eq!(uris.find(uri), found, "{uri}");
        }
        let mut contested: Vec<_> = uris.contested_forms().collect();
        contested.sort();
        assert_eq!(contested, [(&"x://a/g%20h".to_owned(), [a, b]), (&"x://a/~u".to_owned(), [b, a])]);
        assert_eq!(uris.respelled.len(), 5, "what is listed in its canonical form is there once");
        let listed_once = ["x://a/b c", "x://a/%7eu", "x://a/./~f"].concat();
        let forms = ["x://a/b%20c", "x://a/~u", "x://a/d%20e", "x://a/~f", "x://a/g%20h"].concat();
        assert_eq!(uris.form_bytes(), [listed_once, forms].concat().len() + 5 * FORM_COST);
    }
}
