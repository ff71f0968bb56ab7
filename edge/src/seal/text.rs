//! base64url without padding (RFC 4648 §5), strictly: each byte string has exactly one text.

/// The text of `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut bits = 0_u32;
        for place in 0..3 {
            bits = bits << 8 | u32::from(chunk.get(place).copied().unwrap_or_default());
        }
        let letters = (0..=chunk.len()).map(|place| letter((bits >> (18 - 6 * place)) & 0x3f));
        text.extend(letters);
    }
    text
}

/// The bytes of `text`; `None` if it is not what [`encode`] writes.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let (whole, rest) = text.as_bytes().as_chunks();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for chunk in whole {
        let [_, a, b, c] = bits(*chunk)?;
        bytes.extend_from_slice(&[a, b, c]);
    }
    // RFC 4648 §3.5: bits that stand for nothing are zero
    match *rest {
        [] => {}
        [first, second] => match bits([first, second, ZERO, ZERO])? {
            [_, a, 0, 0] => bytes.push(a),
            _ => return None,
        },
        [first, second, third] => match bits([first, second, third, ZERO])? {
            [_, a, b, 0] => bytes.extend_from_slice(&[a, b]),
            _ => return None,
        },
        _ => return None,
    }
    Some(bytes)
}

/// What four letters stand for, in the last three bytes.
fn bits(letters: [u8; 4]) -> Option<[u8; 4]> {
    let [a, b, c, d] = letters.map(sextet);
    let is_text = (a | b | c | d) < NONE;
    is_text.then(|| (a << 18 | b << 12 | c << 6 | d).to_be_bytes())
}

fn letter(sextet: u32) -> char {
    let at = usize::try_from(sextet).ok();
    at.and_then(|at| ALPHABET.get(at)).map_or('A', |letter| char::from(*letter))
}

fn sextet(letter: u8) -> u32 {
    SEXTETS.get(usize::from(letter)).copied().map_or(NONE, u32::from)
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
/// The letter of no bits.
const ZERO: u8 = b'A';
/// Of a byte that is no letter: more than six bits.
const NONE: u32 = 64;

/// What each byte stands for: a session id is read with each request.
#[expect(
    clippy::indexing_slicing,
    reason = "the places are the alphabet's own, and known when this is compiled"
)]
static SEXTETS: [u8; 256] = {
    let (mut sextets, mut place) = ([NONE as u8; 256], 0);
    while place < ALPHABET.len() {
        sextets[ALPHABET[place] as usize] = place as u8;
        place += 1;
    }
    sextets
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_those_of_the_rfc() {
        // RFC 4648 §10, without padding; and the two letters that differ from base64
        let table = [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg")];
        for (bytes, text) in table {
            assert_eq!(encode(bytes.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), bytes.as_bytes());
        }
        assert_eq!(encode(&[0xfb, 0xff]), "-_8");
        for bad in ["Z", "Zg==", "Zh", "Zm9", "Zm9v+", "Zm9v/A", " Zg", "Zg\n", "Zé"] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn bytes_survive(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&bytes)), Some(bytes));
        }

        #[test]
        fn a_text_has_one_spelling(text in "[A-Za-z0-9_=+/ -]{0,12}") {
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
