//! Progress that rises over all rounds of a call, although each round counts anew.

use bytes::Bytes;
use serde_json::Number;
use wire::Message;
use wire::envelope::Value;
use wire::splice::Splice;

/// How far a call has come, as its client was told.
#[derive(Debug, Default)]
pub(in crate::front) struct Steps {
    last: f64,
    /// What earlier rounds had come to; `None` in the first, which is told as it is.
    base: Option<f64>,
}

impl Steps {
    /// Another round counts from here.
    pub(in crate::front) fn restart(&mut self) {
        self.base = Some(self.last);
    }

    /// Makes the edits of a progress notification; `false` for one that would not rise.
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
        if let Some((total, most)) = number(message, "total") {
            splice.replace(total.span(), text(base + most));
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

    fn told(steps: &mut Steps, progress: &str) -> Option<String> {
        let text =
            format!(r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{{progress}}}}}"#);
        let message = Message::scan(text.into(), &Limits::default()).unwrap();
        let mut splice = Splice::new(message.bytes().clone());
        let rises = steps.edit(&message, &mut splice);
        let text = String::from_utf8(splice.finish().into_bytes().to_vec()).unwrap();
        let (_, params) = text.split_once(r#""params":{"#).unwrap();
        rises.then(|| params.trim_end_matches('}').to_owned())
    }

    #[test]
    fn later_rounds_go_on_where_the_first_ended() {
        let mut steps = Steps::default();
        for first in [r#""progress":1.0,"total":1e1"#, r#""progress":4,"total":10"#, r#""progress":"odd""#] {
            assert_eq!(told(&mut steps, first).as_deref(), Some(first), "the first round is told as it is");
        }
        steps.restart();
        assert_eq!(told(&mut steps, r#""progress":0,"total":3"#), None);
        assert_eq!(
            told(&mut steps, r#""progress":1,"total":3"#).as_deref(),
            Some(r#""progress":5,"total":7"#)
        );
        assert_eq!(told(&mut steps, r#""progress":1"#), None);
        assert_eq!(told(&mut steps, r#""progress":1.5"#).as_deref(), Some(r#""progress":5.5"#));
        steps.restart();
        assert_eq!(told(&mut steps, r#""progress":1"#).as_deref(), Some(r#""progress":6.5"#));
    }
}
