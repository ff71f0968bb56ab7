//! Whether clients accept a date and time. The official TypeScript clients are the strictest: they use zod's
//! `datetime({ offset: true })`, which requires seconds and the colon of the offset, and rejects leap seconds.
//
// RFC 3339 §5.6, with capital T and Z and without second 60; probed with zod 4.6 (schema of TypeScript SDK 1.32)

/// `2026-07-28T09:30:00Z` or `2026-07-28T09:30:00.5+05:30`.
pub(super) fn is_date_time(text: &[u8]) -> bool {
    let Some((date, [b'T', time @ ..])) = text.split_at_checked(10) else { return false };
    let Some((clock, rest)) = time.split_at_checked(8) else { return false };
    let zone = match rest {
        [b'.', fraction @ ..] => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            fraction.get(digits..).filter(|_| digits > 0)
        }
        _ => Some(rest),
    };
    let is_zone = match zone {
        Some(b"Z") => true,
        Some([b'+' | b'-', offset @ ..]) => offset.len() == 5 && is_clock(offset),
        _ => false,
    };
    is_date(date) && is_clock(clock) && is_zone
}

fn is_date(text: &[u8]) -> bool {
    let [year @ .., b'-', m, n, b'-', d, e] = text else { return false };
    let Some(year) = number(year).filter(|_| year.len() == 4) else { return false };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match number(&[*m, *n]) {
        Some(2) if is_leap => 29,
        Some(2) => 28,
        Some(4 | 6 | 9 | 11) => 30,
        Some(1..=12) => 31,
        _ => return false,
    };
    number(&[*d, *e]).is_some_and(|day| (1..=days).contains(&day))
}

/// `23:59`, or `23:59:59`.
fn is_clock(text: &[u8]) -> bool {
    let mut most = [23, 59, 59].into_iter();
    text.split(|byte| *byte == b':').all(|part| {
        let most = most.next();
        part.len() == 2 && number(part).zip(most).is_some_and(|(value, most)| value <= most)
    })
}

/// Up to four digits.
fn number(text: &[u8]) -> Option<u32> {
    text.iter().try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + u32::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    // The expectations are what zod 4.6 returns.
    #[test]
    fn is_date_time_agrees_with_zod() {
        for (text, is) in [
            ("2026-07-28T09:30:00Z", true),
            ("2024-02-29T23:59:59.123456+05:30", true),
            ("2026-07-28T09:30:00-23:59", true),
            ("0000-02-29T00:00:00Z", true),
            ("2026-07-28T09:30Z", false),
            ("2026-07-28T09:30+05:30", false),
            ("2026-07-28T09:30:00Z05:30", false),
            ("2026-07-28T09:30:00.5Z05:30", false),
            ("2026-07-28T09:30:00+0530", false),
            ("2026-07-28T09:30:00+05:30:00", false),
            ("2026-07-28T09:30:00-24:00", false),
            ("2026-07-28T23:59:60Z", false),
            ("2026-07-28t09:30:00z", false),
            ("12026-07-28T09:30:00Z", false),
            ("2026-02-29T00:00:00Z", false),
            ("1900-02-29T00:00:00Z", false),
            ("2026-06-31T00:00:00Z", false),
            ("2026-13-01T00:00:00Z", false),
            ("2026-00-01T00:00:00Z", false),
            ("2026-01-00T00:00:00Z", false),
            ("2026-07-28", false),
            ("2026-07-28 09:30:00Z", false),
            ("2026-07-28T09:30:00", false),
            ("2026-07-28T24:00:00Z", false),
            ("2026-07-28T09:30:00.Z", false),
            ("2026-07-28T09:30:00+5", false),
            ("é", false),
        ] {
            assert_eq!(is_date_time(text.as_bytes()), is, "{text}");
        }
    }
}
