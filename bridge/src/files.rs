//! The limit of open files: raised for the bridge and restored for its children; bounds that do not fit are lowered.

use nix::libc::rlim_t;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::args::{DataPath, Settings};

/// The limit that the bridge was started with; children get it back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenFiles {
    pub(crate) soft: rlim_t,
    pub(crate) hard: rlim_t,
}

/// Raises the soft limit as far as the bounds need, and lowers the bounds to what fits under the hard one.
/// Returns the old limit.
pub(crate) fn fit(settings: &mut Settings) -> OpenFiles {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let mut allowed = soft;
    let wanted = needed(settings);
    if wanted > soft && setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).is_ok() {
        allowed = wanted.min(hard);
    }
    if wanted > allowed {
        // At most half of the room goes to processes; waiting connections get the rest.
        let room = allowed.saturating_sub(own(settings));
        let processes = (room / 2 / per_process(settings)).clamp(1, count(settings.max_connections));
        let waiting =
            room.saturating_sub(processes * per_process(settings)).clamp(1, count(settings.max_waiting));
        settings.max_connections = usize::try_from(processes).unwrap_or(settings.max_connections);
        settings.max_waiting = usize::try_from(waiting).unwrap_or(settings.max_waiting);
    }
    OpenFiles { soft, hard }
}

fn needed(settings: &Settings) -> rlim_t {
    own(settings) + per_process(settings) * count(settings.max_connections) + count(settings.max_waiting)
}

/// What the bridge itself holds open: at rest, and while it starts a process or reads /proc.
fn own(settings: &Settings) -> rlim_t {
    const STANDARD_POLL_SIGNALS: rlim_t = 5;
    const STARTING_A_PROCESS: rlim_t = 10;
    STANDARD_POLL_SIGNALS + STARTING_A_PROCESS + count(settings.listen.len())
}

/// The socket and the pipe of stderr; on the pipe data path also those of stdin and stdout.
fn per_process(settings: &Settings) -> rlim_t {
    match settings.data_path {
        DataPath::Handoff => 2,
        DataPath::Pipe => 4,
    }
}

fn count(bound: usize) -> rlim_t {
    rlim_t::try_from(bound).unwrap_or(rlim_t::MAX)
}
