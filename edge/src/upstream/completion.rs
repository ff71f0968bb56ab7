//! Completions as clients may get them: the specification bounds how many values one has.

use wire::limits::Limits;
use wire::mcp::method::Method;
use wire::object::{self, Object};
use wire::span::Span;
use wire::splice::Splice;

/// Leaves out what a completion in the result of a call of `method` has too many of, and says that there are more. Any other
/// result stays as it is.
// MCP 2025-11-25 and 2026-07-28 server/utilities/completion, Completion Results: at most 100 values
pub(super) fn clamp(splice: &mut Splice, method: Method, (bytes, result): (&[u8], &Object)) {
    if method != Method::Complete {
        return;
    }
    let limits = Limits::default();
    let completion =
        result.get(bytes, "completion").and_then(|completion| Object::scan(bytes, completion, &limits).ok());
    let Some(completion) = completion else { return };
    let Some(values) = completion.get(bytes, "values") else { return };
    // One more than may stay, to see whether there is one.
    let Ok(first) = object::first_elements(bytes, values, &limits, VALUES + 1) else { return };
    let (Some(last), true) = (first.get(VALUES - 1), first.len() > VALUES) else { return };
    splice.remove(Span { start: last.end, end: values.end - 1 }); // up to the bracket
    splice.object(&completion).set("hasMore", "true");
}

/// Values of one completion.
const VALUES: usize = 100;
