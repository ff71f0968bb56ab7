//! What is compared: groups of candidates. A candidate is one side with a prepared load; the candidates of a group answer the
//! same question and take turns.

use serde::Serialize;

use crate::load::{Load, To};
use crate::usage::Family;

/// Candidates that are compared with each other.
pub(crate) struct Group {
    pub(crate) name: &'static str,
    /// One line: the request, and the sides that answer it.
    pub(crate) title: String,
    pub(crate) steps: Vec<Step>,
    pub(crate) candidates: Vec<Candidate>,
    /// The candidate that the others are compared with.
    pub(crate) base: &'static str,
}

/// One side with its load.
pub(crate) struct Candidate {
    pub(crate) side: String,
    pub(crate) to: To,
    pub(crate) requests: std::path::PathBuf,
    pub(crate) sessions: bool,
    /// What is counted as the side's own.
    pub(crate) family: Family,
    /// How many times longer than others it is measured: a slow peer answers too little in a short time.
    pub(crate) stretch: f64,
    /// Whether its open loop is relative to its own peak or to the group's.
    pub(crate) own_peak: bool,
}

/// The load of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) enum Step {
    /// This many connections, each with one request in flight.
    Closed { connections: usize },
    /// This percentage of the peak rate, over [`OPEN_CONNECTIONS`].
    Open { percent: u32 },
}

impl Candidate {
    pub(crate) fn new(side: &str, to: To, requests: std::path::PathBuf, family: Family) -> Candidate {
        let (sessions, stretch, own_peak) = (false, 1.0, false);
        Candidate { side: side.to_owned(), to, requests, sessions, family, stretch, own_peak }
    }

    /// The load of one measurement.
    pub(crate) fn load(&self, connections: usize, seconds: f64, rate: Option<f64>) -> Load {
        Load {
            to: self.to.clone(),
            requests: self.requests.clone(),
            connections,
            seconds: seconds * self.stretch,
            rate,
            sessions: self.sessions,
        }
    }
}

impl Step {
    pub(crate) fn closed(connections: &[usize]) -> Vec<Step> {
        connections.iter().map(|&connections| Step::Closed { connections }).collect()
    }

    /// As it stands in a table.
    pub(crate) fn label(self) -> String {
        match self {
            Step::Closed { connections } => connections.to_string(),
            Step::Open { percent } => format!("{percent} %"),
        }
    }
}

/// Connections of the open loop: more than the requests in flight of any side that keeps up.
pub(crate) const OPEN_CONNECTIONS: usize = 64;
