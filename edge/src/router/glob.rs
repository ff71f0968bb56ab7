//! Globs of the policy: `*` matches any run of characters, `?` one character, everything else itself.
//!
//! Matching backtracks to the last `*` only, so it takes at most (characters of the glob) × (characters of the text)
//! steps. It must not know what is matched.

use std::fmt;
use std::str::{Chars, FromStr};

/// A non-empty glob.
#[derive(Clone, PartialEq, Eq)]
pub struct Glob(Box<str>);

impl Glob {
    /// The glob as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches all of `text`.
    pub fn fits(&self, text: &str) -> bool {
        fits(&self.0, text)
    }

    /// Whether it certainly matches whatever `other` matches: it matches the text of that glob.
    pub fn covers(&self, other: &Self) -> bool {
        // A `*` in the text stands for any number of characters, which `?` does not match.
        !(self.0.contains('?') && other.0.contains('*')) && self.fits(&other.0)
    }

    /// Whether it matches any text that begins with `prefix`.
    pub fn may_fit_prefix(&self, prefix: &str) -> bool {
        let mut glob = self.0.chars();
        for wanted in prefix.chars() {
            match glob.next() {
                // It matches the rest of the prefix, and the rest of the glob always matches some text after it.
                Some('*') => return true,
                Some(found) if found == '?' || found == wanted => {}
                _ => return false,
            }
        }
        true
    }

    /// Whether it is `*`, which matches everything.
    pub fn is_any(&self) -> bool {
        &*self.0 == "*"
    }
}

/// Why a text is not a glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadGlob {
    /// It would match nothing.
    #[error("an empty glob matches nothing; write a name, or `*` for all")]
    Empty,
    /// It has more than [`GLOB_CHARS`] characters.
    #[error("a glob has at most {GLOB_CHARS} characters")]
    TooLong,
}

impl FromStr for Glob {
    type Err = BadGlob;

    fn from_str(text: &str) -> Result<Self, BadGlob> {
        match text.chars().take(GLOB_CHARS + 1).count() {
            0 => Err(BadGlob::Empty),
            chars if chars > GLOB_CHARS => Err(BadGlob::TooLong),
            _ => Ok(Self(text.into())),
        }
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether `glob`, which may be empty here, matches all of `text`.
pub(super) fn fits(glob: &str, text: &str) -> bool {
    let (mut glob, mut text) = (glob.chars(), text.chars());
    // What follows the last `*`, and where in the text that was tried. If it does not match there, the next place is tried.
    let mut last: Option<(Chars<'_>, Chars<'_>)> = None;
    loop {
        match (glob.next(), text.clone().next()) {
            (Some('*'), _) => {
                last = Some((glob.clone(), text.clone()));
                continue;
            }
            (Some(wanted), Some(found)) if wanted == '?' || wanted == found => {
                text.next();
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        let Some((after, tried)) = &mut last else { return false };
        if tried.next().is_none() {
            return false;
        }
        (glob, text) = (after.clone(), tried.clone());
    }
}

/// Characters of one glob. 256: names of principals and tools are a quarter as long.
pub const GLOB_CHARS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, taken literally. Exponential for some globs.
    fn by_definition(glob: &[char], text: &[char]) -> bool {
        match (glob, text) {
            ([], []) => true,
            (['*', rest @ ..], _) => (0..=text.len()).any(|at| by_definition(rest, &text[at..])),
            (['?', glob @ ..], [_, text @ ..]) => by_definition(glob, text),
            ([wanted, glob @ ..], [found, text @ ..]) if wanted == found => by_definition(glob, text),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn a_glob_fits_what_its_definition_says(glob in "[abä*?]{0,8}", text in "[abä*?]{0,10}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(fits(&glob, &text), by_definition(&chars(&glob), &chars(&text)));
        }

        #[test]
        fn a_name_without_wildcards_fits_itself_alone(name in "[a-z_.!\\[\\]{}\\\\-]{1,12}", other in "[a-z]{0,12}") {
            prop_assert!(fits(&name, &name));
            prop_assert_eq!(fits(&name, &other), name == other);
        }

        #[test]
        fn what_a_glob_covers_it_fits(one in "[ab*?]{1,5}", other in "[ab*?]{1,5}", text in "[abc]{0,7}") {
            let (one, other): (Glob, Glob) = (one.parse().unwrap(), other.parse().unwrap());
            prop_assert!(!one.covers(&other) || !other.fits(&text) || one.fits(&text));
        }

        #[test]
        fn a_glob_that_fits_a_text_may_fit_its_prefixes(glob in "[ab*?]{1,6}", text in "[ab]{0,7}", at in 0_usize..8) {
            let glob: Glob = glob.parse().unwrap();
            let prefix = text.get(..at).unwrap_or(&text);
            prop_assert!(!glob.fits(&text) || glob.may_fit_prefix(prefix));
            // Each wildcard in its place makes a witness.
            let rest = glob.0.chars().skip(prefix.len()).map(|one| if one == '?' { 'a' } else { one });
            let witness = format!("{prefix}{}", rest.filter(|one| *one != '*').collect::<String>());
            let is_plain = !glob.0.chars().take(prefix.len()).any(|one| one == '*');
            prop_assert!(!is_plain || glob.may_fit_prefix(prefix) == glob.fits(&witness));
        }

        #[test]
        fn a_star_takes_any_run(before in "[a-z]{0,6}", run in ".{0,30}", after in "[a-z]{0,6}") {
            let glob = format!("{before}*{after}");
            let text = format!("{before}{run}{after}");
            prop_assert!(fits(&glob, &text));
        }
    }

    #[test]
    fn a_hostile_glob_takes_no_longer_than_glob_and_text_together() {
        let glob: Glob = "*a".repeat(GLOB_CHARS / 2).parse().unwrap();
        // By definition this takes longer than the universe lasts.
        assert!(!glob.fits(&format!("{}b", "a".repeat(4096))));
    }

    #[test]
    fn a_star_may_fit_any_prefix_and_a_literal_only_its_own() {
        for (glob, may_fit) in [
            ("*", true),
            ("o*", true),
            ("oauth:*", true),
            ("?auth:ann", true),
            ("oauth", false),
            ("ann*", false),
        ] {
            assert_eq!(glob.parse::<Glob>().unwrap().may_fit_prefix("oauth:"), may_fit, "{glob}");
        }
    }

    #[test]
    fn what_fits_nothing_or_is_too_long_is_no_glob() {
        assert_eq!("".parse::<Glob>(), Err(BadGlob::Empty));
        assert!("ä".repeat(GLOB_CHARS).parse::<Glob>().is_ok());
        assert_eq!("ä".repeat(GLOB_CHARS + 1).parse::<Glob>(), Err(BadGlob::TooLong));
    }
}
