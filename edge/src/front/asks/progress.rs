//! Progress that rises over all rounds of a call, although each round counts anew.

use bytes::Bytes;
use serde_json::Number;
use wire::Message;
use wire::envelope::Value;
use wire::splice::Splice;

/// The progress of a call, as its client gets it.
#[derive(Debug, Default)]
pub(in crate::front) struct RisingProgress {
    last: f64,
    /// The progress at the end of the earlier rounds; `None` in the first, which passes unchanged.
    base: Option<f64>,
}

impl RisingProgress {
    /// Another round counts from here.
    pub(in crate::front) fn restart(&mut self) {
        self.base = Some(self.last);
    }

    /// Edits a progress notification; `false` for one that would not rise.
    // MCP 2025-11-25 basic/utilities/progress: progress must increase with each notification
    pub(in crate::front) fn edit(&mut self, message: &Message, splice: &mut Splice) -> bool {
        let Some((progress, now)) = number(message, "progress") else { return true };
        let Some(base) = self.base else {
            self.last = now;
            return true;
        };
        let now = base + now;
        if now <= self.last {
            return false;
        }
        self.last = now;
        splice.replace(progress.span(), text(now));
        if let Some((total, max)) = number(message, "total") {
            splice.replace(total.span(), text(base + max));
        }
        true
    }
}

fn number<'m>(message: &'m Message, key: &str) -> Option<(Value<'m>, f64)> {
    let value = message.param(key)?;
    Some((value, value.parse::<f64>().ok()?))
}

/// Whole numbers stay whole.
fn text(number: f64) -> Bytes {
    #[expect(clippy::cast_possible_truncation, reason = "below 2^53 a whole number is exact")]
    let whole = (number.fract() == 0.0 && number.abs() < EXACT).then_some(number as i64);
    let number = whole.map(Number::from).or_else(|| Number::from_f64(number));
    number.map_or_else(Bytes::new, |number| number.to_string().into())
}

/// Up to here doubles hold every whole number.
const EXACT: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use super::*;
    use wire::limits::Limits;

    fn edited(call: &mut RisingProgress, params: &str) -> Option<String> {
        let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{{params}}}}}"#);
        let message = Message::scan(text.into(), &Limits::default()).unwrap();
        let mut splice = Splice::new(message.bytes().clone());
        let rises = call.edit(&message, &mut splice);
        let text = String::from_utf8(splice.finish().into_bytes().to_vec()).unwrap();
        let (_, params) = text.split_once(r#""params":{"#).unwrap();
        rises.then(|| params.trim_end_matches('}').to_owned())
    }

    #[test]
    fn later_rounds_go_on_where_the_first_ended() {
        let mut call = RisingProgress::default();
        for first in [r#""progress":1.0,"total":1e1"#, r#""progress":4,"total":10"#, r#""progress":"odd""#] {
            assert_eq!(edited(&mut call, first).as_deref(), Some(first), "the first round passes unchanged");
        }
        call.restart();
        assert_eq!(edited(&mut call, r#""progress":0,"total":3"#), None);
        assert_eq!(
            edited(&mut call, r#""progress":1,"total":3"#).as_deref(),
            Some(r#""progress":5,"total":7"#)
        );
        assert_eq!(edited(&mut call, r#""progress":1"#), None);
        assert_eq!(edited(&mut call, r#""progress":1.5"#).as_deref(), Some(r#""progress":5.5"#));
        call.restart();
        assert_eq!(edited(&mut call, r#""progress":1"#).as_deref(), Some(r#""progress":6.5"#));
    }
}
