//! The limit of open files: each connection, downstream or upstream, is one.

use std::io;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The limit of open files, before and after it was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// The limit of this process; `None` means no limit.
    pub limit: Option<u64>,
    before: Option<u64>,
}

impl OpenFiles {
    /// Raises the soft limit to the hard one. Where that is not allowed, the limit stays.
    pub fn raise() -> Self {
        let Rlimit { current: before, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        Self { limit: if raised.is_ok() { maximum } else { before }, before }
    }

    /// How many of the wanted downstream connections fit besides `upstream` ones.
    pub fn fit(&self, connections: usize, upstream: usize) -> usize {
        let Some(limit) = self.limit else { return connections };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        connections.min(limit.saturating_sub(OWN_FILES + upstream).max(1))
    }

    /// Gives a child the limit that this process was started with: programs that use `select` break above 1,024, and some
    /// close every possible descriptor at start.
    ///
    /// # Errors
    /// The system's error; the child may be gone already.
    pub fn restore(&self, child: u32) -> io::Result<()> {
        let Some(child) = i32::try_from(child).ok().and_then(Pid::from_raw) else { return Ok(()) };
        prlimit(Some(child), Resource::Nofile, Rlimit { current: self.before, maximum: self.limit })?;
        Ok(())
    }
}

/// Files for other purposes: listeners, logs, the runtime's descriptors, admin connections, certificates.
const OWN_FILES: usize = 192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_clamped_to_the_limit_of_open_files() {
        let files = OpenFiles { limit: Some(1024), before: Some(1024) };
        assert_eq!(files.fit(10_000, 65), 767);
        assert_eq!(files.fit(100, 65), 100);
        assert_eq!(OpenFiles { limit: Some(10), before: None }.fit(100, 65), 1);
        assert_eq!(OpenFiles { limit: None, before: None }.fit(10_000, 65), 10_000);
    }
}
