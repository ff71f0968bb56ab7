//! Durations and sizes as users write them: `300s`, `10m`, `4MiB`.
//!
//! A number without a unit is refused, because it would be ambiguous.

use std::time::Duration;

/// A [`duration`], or microseconds, `50us`: only for settings that short; elsewhere it would be a typing error.
pub(super) fn short_duration(text: &str) -> Option<Duration> {
    match split(text)? {
        (number, "us") => Some(Duration::from_micros(number)),
        _ => duration(text),
    }
}

/// `1500ms`, `300s`, `10m`, `24h`; whole numbers only.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        _ => None,
    }
}

/// `64KiB`, `4MiB`, `1GiB`, `512B`; also `64K`, `4M`, `1G`, as in Kubernetes and Docker.
pub(super) fn bytes(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let unit_bytes = match unit {
        "B" => 1,
        "KiB" | "Ki" | "K" => 1 << 10,
        "MiB" | "Mi" | "M" => 1 << 20,
        "GiB" | "Gi" | "G" => 1 << 30,
        _ => return None,
    };
    usize::try_from(number).ok()?.checked_mul(unit_bytes)
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    Some((number.parse().ok()?, unit.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("300s"), Some(Duration::from_secs(300)));
        assert_eq!(duration("10m"), Some(Duration::from_secs(600)));
        assert_eq!(short_duration("50us"), Some(Duration::from_micros(50)));
        assert_eq!((short_duration("1ms"), duration("50us")), (Some(Duration::from_millis(1)), None));
        assert_eq!(duration("24h"), Some(Duration::from_secs(86_400)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("5 s"), Some(Duration::from_secs(5)));
        for text in
            ["", "5", "s", "-5s", "1.5s", "5d", "5S", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(bytes("4MiB"), Some(4 << 20));
        assert_eq!(bytes("64Ki"), Some(64 << 10));
        assert_eq!(bytes("1G"), Some(1 << 30));
        assert_eq!(bytes("512B"), Some(512));
        for text in ["", "4", "MiB", "4MB", "4mib", "99999999999999G"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }
}
