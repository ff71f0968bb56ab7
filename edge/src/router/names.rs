//! Decides which server owns which public name. Pure: offers in, names out, and a memory of the names given out.
//!
//! Rules (ARCHITECTURE, Names): the first server in the configuration keeps a contested name; the others appear as
//! `<slug>__<name>`. A bare name that was given out keeps its server until the configuration changes, also while that
//! server is down or no longer offers it, so a later server can never shadow an earlier one's tool. `<slug>__<name>`
//! always leads to what that server calls `<name>`. A bare name that looks like the prefixed name of another configured
//! server is given to nobody, or a server could catch the calls of another one by naming its tools so.

use std::collections::{HashMap, HashSet};

use crate::call::ServerName;

/// How a server's names become public.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefix {
    /// Bare, and `<slug>__<name>` only where the bare name is taken.
    #[default]
    Conflict,
    /// Always `<slug>__<name>`: the names do not depend on what other servers offer.
    Always,
}

/// What one server offers.
#[derive(Debug)]
pub struct Offer<'a> {
    /// The server.
    pub server: &'a ServerName,
    /// How its names become public.
    pub prefix: Prefix,
    /// Its own names, in its order.
    pub names: Vec<&'a str>,
}

/// The public names of one kind of thing (tools, prompts).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    owners: HashMap<String, ServerName>,
}

/// The public names of all offers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    /// For each offer and each of its names the public name; `None` where a server repeats a name.
    pub public: Vec<Vec<Option<String>>>,
    /// How many names got a prefix because the bare name leads elsewhere.
    pub contested: usize,
}

impl Names {
    /// Gives every offered name a public name. Offers come in the configured order; `slugs` are those of all configured
    /// servers, also of servers that offer nothing yet.
    pub fn assign(&mut self, offers: &[Offer<'_>], slugs: &HashSet<&str>) -> Assigned {
        for offer in offers.iter().filter(|offer| offer.prefix == Prefix::Conflict) {
            for name in &offer.names {
                if !self.owners.contains_key(*name) && split(name, slugs).is_none() {
                    self.owners.insert((*name).to_owned(), offer.server.clone());
                }
            }
        }
        if self.owners.len() > GIVEN_NAMES {
            let offered: HashSet<&str> =
                offers.iter().flat_map(|offer| offer.names.iter().copied()).collect();
            self.owners.retain(|name, _| offered.contains(name.as_str()));
        }
        let mut assigned = Assigned::default();
        for offer in offers {
            let own: HashSet<&str> = offer.names.iter().copied().collect();
            let mut seen = HashSet::with_capacity(own.len());
            let names = offer.names.iter().map(|name| {
                if !seen.insert(*name) {
                    return None;
                }
                let is_its_own = match split(name, slugs) {
                    Some((slug, rest)) => slug == offer.server.as_str() && !own.contains(rest),
                    None => self.owners.get(*name) == Some(offer.server),
                };
                if offer.prefix == Prefix::Conflict && is_its_own {
                    return Some((*name).to_owned());
                }
                assigned.contested += usize::from(offer.prefix == Prefix::Conflict);
                Some(prefixed(offer.server, name)) // no other server has it: see `split`
            });
            let names = names.collect();
            assigned.public.push(names);
        }
        assigned
    }

    /// Keeps the names of servers for which `keeps` returns true.
    pub fn retain(&mut self, keeps: impl Fn(&ServerName) -> bool) {
        self.owners.retain(|_, owner| keeps(owner));
    }

    /// These names, overridden by those of `own`.
    pub fn with(&self, own: &Self) -> Self {
        let mut all = self.clone();
        all.owners.extend(own.owners.iter().map(|(name, owner)| (name.clone(), owner.clone())));
        all
    }

    /// The names that `common` does not have, or gave to another server.
    pub fn beyond(&self, common: &Self) -> Self {
        let differs = |(name, owner): &(&String, &ServerName)| common.owners.get(*name) != Some(*owner);
        let owners = self.owners.iter().filter(differs).map(|(name, owner)| (name.clone(), owner.clone()));
        Self { owners: owners.collect() }
    }

    /// About the bytes that they take.
    pub fn bytes(&self) -> usize {
        self.owners.keys().map(|name| name.len() + NAME_COST).sum()
    }
}

/// `<slug>__<name>`: adds only characters that every LLM API accepts in the name of a tool.
pub fn prefixed(server: &ServerName, name: &str) -> String {
    format!("{server}__{name}")
}

/// The slug and the own name in a prefixed name, if a server of that slug is configured. There is only one way to split
/// it, because no slug contains an underscore.
fn split<'n>(name: &'n str, slugs: &HashSet<&str>) -> Option<(&'n str, &'n str)> {
    name.split_once("__").filter(|(slug, _)| slugs.contains(slug))
}

/// Names of each kind that are kept for their servers. 100,000: ten times what large installations offer. Above it, names
/// that nobody offers at the moment are forgotten, so that a server that keeps inventing names does not fill the memory.
pub const GIVEN_NAMES: usize = 100_000;
/// Bytes of a name beside its text.
const NAME_COST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str) -> ServerName {
        ServerName::parse(name).unwrap()
    }

    fn offer<'a>(server: &'a ServerName, names: &[&'a str]) -> Offer<'a> {
        Offer { server, prefix: Prefix::Conflict, names: names.to_vec() }
    }

    /// Where all who are configured offer something.
    fn assign(names: &mut Names, offers: &[Offer<'_>]) -> Assigned {
        names.assign(offers, &offers.iter().map(|offer| offer.server.as_str()).collect())
    }

    fn public(assigned: &Assigned) -> Vec<Vec<&str>> {
        assigned
            .public
            .iter()
            .map(|names| names.iter().map(|n| n.as_deref().unwrap_or("-")).collect())
            .collect()
    }

    #[test]
    fn the_first_server_keeps_a_contested_name() {
        let (a, b) = (server("a"), server("b"));
        let assigned = assign(&mut Names::default(), &[offer(&a, &["x", "y"]), offer(&b, &["y", "z"])]);
        assert_eq!(public(&assigned), [vec!["x", "y"], vec!["b__y", "z"]]);
        assert_eq!(assigned.contested, 1);
    }

    #[test]
    fn name_given_out_keeps_its_server() {
        let (a, b) = (server("a"), server("b"));
        let mut names = Names::default();
        assign(&mut names, &[offer(&a, &[]), offer(&b, &["y"])]);
        let late = assign(&mut names, &[offer(&a, &["y"]), offer(&b, &["y"])]);
        assert_eq!(public(&late), [vec!["a__y"], vec!["y"]]);
        let gone = assign(&mut names, &[offer(&a, &["y"]), offer(&b, &[])]);
        assert_eq!(public(&gone), [vec!["a__y"], vec![]], "the owner is down, its name waits for it");
    }

    #[test]
    fn names_that_nobody_offers_any_more_are_kept_up_to_a_bound() {
        let (a, b) = (server("a"), server("b"));
        let mut names = Names::default();
        assign(&mut names, &[offer(&a, &["kept"]), offer(&b, &["y"])]);
        for round in 0..=11 {
            let invented: Vec<_> = (0..GIVEN_NAMES / 10).map(|n| format!("{round}.{n}")).collect();
            let mut all: Vec<_> = invented.iter().map(String::as_str).collect();
            all.push("kept");
            assign(&mut names, &[offer(&a, &all), offer(&b, &[])]);
            assert!(names.owners.len() <= GIVEN_NAMES + 1);
            let owners = (names.owners.get("kept"), names.owners.contains_key("y"));
            assert_eq!(owners, (Some(&a), round < 9), "in round {round}");
        }
    }

    #[test]
    fn own_names_go_before_common_ones() {
        let (a, b) = (server("a"), server("b"));
        let (mut common, mut own) = (Names::default(), Names::default());
        assign(&mut common, &[offer(&a, &["x", "y"])]);
        assign(&mut own, &[offer(&a, &["x"]), offer(&b, &["y", "z"])]);
        let all = common.with(&own);
        assert_eq!((all.owners["x"].clone(), all.owners["y"].clone()), (a, b));
        assert_eq!(all.beyond(&common).owners.len(), 2, "y and z");
        assert_eq!(all.beyond(&all).bytes(), 0);
    }

    #[test]
    fn always_prefixed_names_leave_the_bare_one_to_others() {
        let (a, b) = (server("a"), server("b"));
        let first = Offer { server: &a, prefix: Prefix::Always, names: vec!["x"] };
        let assigned = assign(&mut Names::default(), &[first, offer(&b, &["x"])]);
        assert_eq!(public(&assigned), [vec!["a__x"], vec!["x"]]);
        assert_eq!(assigned.contested, 0);
    }

    #[test]
    fn a_name_that_looks_like_another_servers_is_given_to_nobody_as_it_is() {
        let (a, b) = (server("a"), server("b"));
        let hostile = ["x", "b__x", "b__b__x", "a__b__x", "c__x"];
        for order in [[0, 1], [1, 0]] {
            let offers = [offer(&a, &hostile), offer(&b, &["x", "y"])];
            let offers = order.map(|n| Offer { names: offers[n].names.clone(), ..offers[n] });
            let named = assign(&mut Names::default(), &offers);
            let named = public(&named);
            let (of_a, of_b) = (&named[order[0]], &named[order[1]]);
            let bare_x = if order[0] == 0 { ["x", "b__x"] } else { ["a__x", "x"] };
            assert_eq!(*of_a, [bare_x[0], "a__b__x", "a__b__b__x", "a__a__b__x", "c__x"]);
            assert_eq!(*of_b, [bare_x[1], "y"]);
        }
        // Whether that server is there, and what it offers, is no matter: it may come later.
        let slugs = HashSet::from(["a", "b"]);
        let alone = Names::default().assign(&[offer(&a, &["b__x"])], &slugs);
        assert_eq!((public(&alone), alone.contested), (vec![vec!["a__b__x"]], 1));
    }

    #[test]
    fn a_server_may_have_names_with_its_own_slug() {
        let (a, b) = (server("a"), server("b"));
        let own = ["a__y", "a___z"];
        let named = assign(&mut Names::default(), &[offer(&b, &["a__y"]), offer(&a, &own)]);
        assert_eq!(public(&named), [vec!["b__a__y"], own.to_vec()]);
        let doubled = assign(&mut Names::default(), &[offer(&a, &["x", "a__x", "a__a__x"])]);
        assert_eq!(public(&doubled), [["x", "a__a__x", "a__a__a__x"]]);
    }

    #[test]
    fn repeated_name_of_one_server_is_offered_once() {
        let a = server("a");
        assert_eq!(public(&assign(&mut Names::default(), &[offer(&a, &["x", "x"])])), [vec!["x", "-"]]);
    }
}
