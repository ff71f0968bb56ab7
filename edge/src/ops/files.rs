//! How many files this process may have open: each connection, down and up, is one.

use std::io;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The limit before and after it was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFiles {
    /// What this process may have open now; `None` is no limit.
    pub limit: Option<u64>,
    before: Option<u64>,
}

impl OpenFiles {
    /// Raises the soft limit to the hard one. Where that is not allowed the limit stays as it is.
    pub fn raise() -> Self {
        let Rlimit { current: before, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        Self { limit: if raised.is_ok() { maximum } else { before }, before }
    }

    /// As many downstream connections as fit beside `upstream` ones, of those wanted.
    pub fn fit(&self, connections: usize, upstream: usize) -> usize {
        let Some(limit) = self.limit else { return connections };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        connections.min(limit.saturating_sub(OWN_FILES + upstream).max(1))
    }

    /// Gives a child the limit this process was started with: programs that use `select` break above 1,024,
    /// and some close every possible descriptor at start.
    ///
    /// # Errors
    /// What the system says; the child may be gone already.
    pub fn restore(&self, child: u32) -> io::Result<()> {
        let Some(child) = i32::try_from(child).ok().and_then(Pid::from_raw) else { return Ok(()) };
        prlimit(Some(child), Resource::Nofile, Rlimit { current: self.before, maximum: self.limit })?;
        Ok(())
    }
}

/// Listeners, logs, the runtime's own descriptors, admin connections, files of certificates.
const OWN_FILES: usize = 192;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_into_the_files_there_are() {
        let files = OpenFiles { limit: Some(1024), before: Some(1024) };
        assert_eq!(files.fit(10_000, 65), 767);
        assert_eq!(files.fit(100, 65), 100);
        assert_eq!(OpenFiles { limit: Some(10), before: None }.fit(100, 65), 1);
        assert_eq!(OpenFiles { limit: None, before: None }.fit(10_000, 65), 10_000);
    }
}
