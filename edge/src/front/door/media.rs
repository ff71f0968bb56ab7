//! Media types: what a client sends, and which forms of an answer it takes.
//!
//! Lenient where real clients need it: no `Accept` means both forms, a charset is allowed, and a client that takes
//! one form only gets that one. No revision prescribes 406 or 415; SDKs send them.

use http::StatusCode;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};
use wire::code;

use crate::front::refusal::Refusal;

/// The forms of an answer that a client takes; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::front) struct Accepts {
    pub(in crate::front) json: bool,
    pub(in crate::front) events: bool,
}

impl Accepts {
    /// Reads `Accept`.
    ///
    /// # Errors
    /// 406 when it rules out both forms.
    pub(in crate::front) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut values = headers.get_all(ACCEPT).iter().peekable();
        if values.peek().is_none_or(|first| *first == USUAL_ACCEPT) {
            return Ok(Self { json: true, events: true });
        }
        let mut accepts = Self { json: false, events: false };
        let values = values.filter_map(|value| value.to_str().ok());
        for range in values.flat_map(|value| value.split(',')) {
            let (kind, parameters) = range.split_once(';').unwrap_or((range, ""));
            if is_refused(parameters) {
                continue;
            }
            let is = |name: &str| kind.trim().eq_ignore_ascii_case(name);
            accepts.json |= is(JSON) || is("application/*") || is("*/*");
            accepts.events |= is("text/event-stream") || is("text/*") || is("*/*");
        }
        if !accepts.json && !accepts.events {
            return Err(not_acceptable("accept application/json and text/event-stream"));
        }
        Ok(accepts)
    }
}

/// The exact value that SDK clients send.
const USUAL_ACCEPT: &str = "application/json, text/event-stream";
const JSON: &str = "application/json";

/// Checks that a stream is wanted.
///
/// # Errors
/// 406 when it is not.
pub(in crate::front) fn wants_events(headers: &HeaderMap) -> Result<(), Refusal> {
    match Accepts::of(headers) {
        Ok(Accepts { events: true, .. }) => Ok(()),
        _ => Err(no_stream_wanted()),
    }
}

/// The refusal of a client that takes no stream where the answer can only be one.
pub(in crate::front) fn no_stream_wanted() -> Refusal {
    not_acceptable("accept text/event-stream")
}

/// Checks that a body is plain JSON in UTF-8.
///
/// # Errors
/// 415 when its `Content-Type` or `Content-Encoding` says otherwise, 501 when its `Transfer-Encoding` does.
pub(in crate::front) fn is_json(headers: &HeaderMap) -> Result<(), Refusal> {
    if !is_all(headers, CONTENT_ENCODING, "identity") {
        // RFC 9110 §8.4, §15.5.16: the refusal says which would do
        return Err(unsupported("send the body uncompressed, without Content-Encoding")
            .with_header(ACCEPT_ENCODING, HeaderValue::from_static("identity")));
    }
    // RFC 9112 §6.1; of a body in chunks hyper takes the chunks apart, and nothing else
    if !is_all(headers, TRANSFER_ENCODING, "chunked") {
        return Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            code::INVALID_REQUEST,
            "the only Transfer-Encoding that is known here is chunked; send the body uncompressed",
        ));
    }
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    if value == JSON {
        return Ok(());
    }
    let text = value.to_str().unwrap_or_default();
    let (kind, parameters) = text.split_once(';').unwrap_or((text, ""));
    let utf8 = parameters.split(';').all(|parameter| match parameter.trim().split_once('=') {
        Some((name, charset)) if name.eq_ignore_ascii_case("charset") => {
            let charset = charset.trim_matches('"');
            ["utf-8", "utf8", "us-ascii"].iter().any(|name| charset.eq_ignore_ascii_case(name))
        }
        _ => true,
    });
    if kind.trim().eq_ignore_ascii_case(JSON) && utf8 {
        return Ok(());
    }
    Err(unsupported("send Content-Type: application/json, in UTF-8"))
}

/// Whether a header names nothing but `coding`.
// RFC 9110 §5.6.1.2: members of a list that are empty are ignored
fn is_all(headers: &HeaderMap, name: HeaderName, coding: &str) -> bool {
    let fits = |named: &str| named.is_empty() || named.eq_ignore_ascii_case(coding);
    headers
        .get_all(name)
        .iter()
        .all(|value| value.to_str().is_ok_and(|text| text.split(',').map(str::trim).all(fits)))
}

fn unsupported(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code::INVALID_REQUEST, message)
}

fn not_acceptable(message: &'static str) -> Refusal {
    Refusal::new(StatusCode::NOT_ACCEPTABLE, code::INVALID_REQUEST, message)
}

/// Whether a media range has the weight zero.
// RFC 9110 §12.4.2
fn is_refused(parameters: &str) -> bool {
    parameters.split(';').any(|parameter| {
        parameter.trim().strip_prefix("q=").is_some_and(|weight| weight.parse::<f32>() == Ok(0.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn accept_is_read_leniently() {
        let both = Some((true, true));
        let table = [
            ("application/json, text/event-stream", both),
            ("text/event-stream;q=0.5, application/json", both),
            ("*/*", both),
            ("Application/JSON", Some((true, false))),
            ("text/event-stream", Some((false, true))),
            ("application/json, text/event-stream;q=0", Some((true, false))),
            ("text/html, */*;q=0.1", both),
            ("text/html", None),
            ("", None),
            ("*/*;q=0", None),
        ];
        for (value, expected) in table {
            let got = Accepts::of(&headers(ACCEPT, value)).ok().map(|a| (a.json, a.events));
            assert_eq!(got, expected, "{value}");
        }
        assert_eq!(Accepts::of(&HeaderMap::new()).unwrap(), Accepts { json: true, events: true });
        assert!(wants_events(&headers(ACCEPT, "application/json")).is_err());
        assert!(wants_events(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn content_type_is_json_in_utf8() {
        for good in
            ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\""]
        {
            assert!(is_json(&headers(CONTENT_TYPE, good)).is_ok(), "{good}");
        }
        for bad in ["text/plain", "application/json; charset=utf-16", "application/jsonp", ""] {
            let refusal = is_json(&headers(CONTENT_TYPE, bad)).unwrap_err();
            assert_eq!(refusal.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{bad}");
        }
        assert!(is_json(&HeaderMap::new()).is_ok());
    }

    /// Seen as `not valid JSON at byte 0`.
    #[test]
    fn a_body_that_is_coded_is_refused_by_what_it_is_coded_in() {
        for (name, value, expected) in [
            (CONTENT_ENCODING, "gzip", Some(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
            (CONTENT_ENCODING, "identity, br", Some(StatusCode::UNSUPPORTED_MEDIA_TYPE)),
            (CONTENT_ENCODING, "Identity", None),
            (CONTENT_ENCODING, "", None),
            (CONTENT_ENCODING, "identity, ,", None),
            (TRANSFER_ENCODING, "gzip, chunked", Some(StatusCode::NOT_IMPLEMENTED)),
            (TRANSFER_ENCODING, "Chunked", None),
        ] {
            let refusal = is_json(&headers(name, value)).err();
            assert_eq!(refusal.as_ref().map(Refusal::status), expected, "{value}");
            let response = refusal.map(Refusal::into_response);
            let takes = response.as_ref().and_then(|response| response.headers().get(ACCEPT_ENCODING));
            let is_415 = expected == Some(StatusCode::UNSUPPORTED_MEDIA_TYPE);
            assert_eq!(takes.map(HeaderValue::as_bytes), is_415.then_some(&b"identity"[..]), "{value}");
        }
    }
}
