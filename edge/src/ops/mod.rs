//! Operating the process: drain, logs, metrics, the admin listener, and the checks of the command line.

pub mod admin;
pub mod bind;
pub mod busy_poll;
pub mod diagnose;
pub mod drain;
pub mod files;
pub mod fingerprint;
pub mod health_check;
pub mod http_client;
pub mod log;
pub mod metrics;
pub mod unix_time;
