//! The problems of a configuration: one sentence each, all reported at once.

use std::fmt;

/// Why there is no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// What to change; at least one, in the order of flags and file.
    pub problems: Vec<Problem>,
}

/// One thing to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// A flag, a variable, or a file with line and key; empty if the text says it.
    pub place: String,
    /// What is wrong, and what would be right.
    pub text: String,
}

impl Problem {
    pub(super) fn new(place: impl Into<String>, text: impl Into<String>) -> Self {
        Self { place: place.into(), text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place.is_empty() {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.place, self.text)
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, problem) in self.problems.iter().enumerate() {
            if number > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The word of `valid` that was probably meant, if one is similar enough.
pub(super) fn nearest<'v>(word: &str, valid: impl Iterator<Item = &'v str>) -> Option<&'v str> {
    let (distance, near) = valid.map(|known| (strsim::osa_distance(word, known), known)).min()?;
    // With up to a third of the letters wrong it is taken for a typing error.
    (distance * 3 <= near.len().max(word.len())).then_some(near)
}

/// `a`, `b` and `c`.
pub(super) fn listed(words: &[impl AsRef<str>]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("`{}`", word.as_ref())).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_near_and_another_word_is_not() {
        let meant = |word| nearest(word, ["listen", "limits", "servers"].into_iter());
        assert_eq!(meant("listne"), Some("listen"));
        assert_eq!(meant("server"), Some("servers"));
        assert_eq!(meant("timeout"), None);
        assert_eq!(listed(&["a", "b", "c"]), "`a`, `b` and `c`");
    }

    #[test]
    fn problems_are_lines() {
        let problems = vec![Problem::new("--port", "`x` is no port"), Problem::new("", "no server")];
        assert_eq!(ConfigError { problems }.to_string(), "--port: `x` is no port\nno server");
    }
}
