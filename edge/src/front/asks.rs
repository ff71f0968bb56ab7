//! What a server wants of its client in mid-call, in the words of either era.
//!
//! ```text
//!                  client with a session               modern client
//! legacy server    questions: on the call's stream     inputs, park: the reply waits, `input_required` goes out
//!                                                      reissue: nothing waits, the call is made again (URLs first)
//! modern server    rounds: asked, then called again    relay: passed on, the server's state sealed
//! ```
//! A modern client answers by a [`retry`] of its request, which [`digest`] binds to the one that was answered so; over all
//! rounds of a call progress rises ([`progress`]).

mod digest;
pub(super) mod inputs;
pub(super) mod park;
pub(super) mod progress;
pub(super) mod questions;
pub(super) mod reissue;
pub(super) mod relay;
pub(super) mod retry;
pub(super) mod rounds;
