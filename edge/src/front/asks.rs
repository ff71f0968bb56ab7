//! Requests of a server to its client during a call (sampling, elicitation, roots), translated between the eras.
//!
//! ```text
//!                  client with a session               modern client
//! legacy server    questions: on the call's stream     inputs, park: the call waits, `input_required` is sent
//!                                                      reissue: nothing waits, the call is made again (URLs first)
//! modern server    rounds: asked, then called again    relay: passed on, the server's state sealed
//! ```
//! A modern client answers with a [`retry`] of its request, which [`digest`] binds to the original. Progress rises over all
//! rounds of a call ([`progress`]).

mod digest;
pub(super) mod inputs;
pub(super) mod park;
pub(super) mod progress;
pub(super) mod questions;
pub(super) mod reissue;
pub(super) mod relay;
pub(super) mod retry;
pub(super) mod rounds;
