//! What opens, and everything that must not.

use proptest::prelude::*;

use super::*;

const KIND: Kind = Kind::new("test");

fn key(letter: char) -> KeyText {
    letter.to_string().repeat(32).parse().unwrap()
}

fn sealer(current: char, previous: Option<char>) -> Sealer {
    Sealer::new(&Config { current: Some(key(current)), previous: previous.map(key), ..Config::default() })
        .unwrap()
}

#[test]
fn a_token_is_visible_ascii_and_opens_with_the_same_key_elsewhere() {
    let token = sealer('a', None).seal(KIND, b"payload").unwrap();
    assert!(token.starts_with("v1.") && token.bytes().all(|byte| matches!(byte, 0x21..=0x7e)), "{token}");
    assert_eq!(sealer('a', None).open(KIND, &token).unwrap(), b"payload");
}

#[test]
fn a_key_can_be_replaced_under_its_tokens() {
    let (old, both, new) = (sealer('a', None), sealer('b', Some('a')), sealer('b', None));
    let (of_old, of_new) = (old.seal(KIND, b"x").unwrap(), both.seal(KIND, b"x").unwrap());
    assert!(both.open(KIND, &of_old).is_some() && both.open(KIND, &of_new).is_some());
    assert!(new.open(KIND, &of_new).is_some(), "the current one seals");
    assert!(new.open(KIND, &of_old).is_none() && old.open(KIND, &of_new).is_none());
}

#[test]
fn a_token_is_of_one_kind() {
    let sealer = sealer('a', None);
    let token = sealer.seal(KIND, b"x").unwrap();
    assert!(sealer.open(Kind::new("other"), &token).is_none());
}

#[test]
fn a_key_made_at_start_is_nobody_elses() {
    let (one, two) = (Sealer::new(&Config::default()).unwrap(), Sealer::new(&Config::default()).unwrap());
    let token = one.seal(KIND, b"x").unwrap();
    assert!(one.open(KIND, &token).is_some());
    assert!(two.open(KIND, &token).is_none());
}

#[test]
fn no_two_tokens_are_the_same_and_no_payload_shows() {
    let sealer = sealer('a', None);
    let (one, two) = (sealer.seal(KIND, &[7; 60]).unwrap(), sealer.seal(KIND, &[7; 60]).unwrap());
    assert_ne!(one, two);
    let bytes = text::decode(&one[VERSION.len()..]).unwrap();
    assert!(!bytes.windows(4).any(|window| window == [7; 4]));
}

#[test]
fn the_longest_token_is_512_bytes() {
    let sealer = sealer('a', None);
    let most = KIND.payload_bytes();
    let longest = sealer.seal(KIND, &vec![0; most]).unwrap();
    assert!(longest.len() <= MAX_TOKEN_BYTES && longest.len() > MAX_TOKEN_BYTES - 4, "{}", longest.len());
    assert_eq!(sealer.open(KIND, &longest).unwrap().len(), most);
    assert_eq!(sealer.seal(KIND, &vec![0; most + 1]).unwrap_err().kind, error::Kind::TooLarge);
    assert!(sealer.open(KIND, &format!("{longest}{}", "A".repeat(64))).is_none());
}

#[test]
fn a_kind_may_have_another_size() {
    const LARGE: Kind = Kind::of_size("large", 64 << 10);
    let sealer = sealer('a', None);
    let most = LARGE.payload_bytes();
    let longest = sealer.seal(LARGE, &vec![7; most]).unwrap();
    assert!(longest.len() <= 64 << 10 && longest.len() > (64 << 10) - 4, "{}", longest.len());
    assert_eq!(sealer.open(LARGE, &longest).unwrap(), vec![7; most]);
    assert!(sealer.seal(LARGE, &vec![7; most + 1]).is_err());
}

#[test]
fn keys_are_long_and_do_not_show_themselves() {
    for bad in ["", "short", &"a".repeat(31), &" a".repeat(32), &"é".repeat(32)] {
        assert_eq!(bad.parse::<KeyText>(), Err(BadKey), "{bad:?}");
    }
    let config = Config { current: Some(key('q')), ..Config::default() };
    assert!(!format!("{config:?} {:?}", Sealer::new(&config).unwrap()).contains("qq"));
}

/// Every token that differs in one letter, lacks an end, or has something added.
#[test]
fn no_neighbour_of_a_token_opens() {
    let sealer = sealer('a', Some('b'));
    let token = sealer.seal(KIND, &[0x5a; 23]).unwrap();
    for at in 0..token.len() {
        assert!(sealer.open(KIND, &token[..at]).is_none(), "cut at {at}");
        for letter in (0x20..0x7f_u8).filter(|letter| *letter != token.as_bytes()[at]) {
            let mut changed = token.as_bytes().to_vec();
            changed[at] = letter;
            assert!(sealer.open(KIND, std::str::from_utf8(&changed).unwrap()).is_none(), "changed at {at}");
        }
        for letter in ['A', '-', '=', ' '] {
            let mut longer = token.to_string();
            longer.insert(at, letter);
            assert!(sealer.open(KIND, &longer).is_none(), "added at {at}");
        }
    }
}

proptest! {
    #[test]
    fn a_payload_comes_back_and_its_length_alone_shows(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let sealer = sealer('a', None);
        let token = sealer.seal(KIND, &payload).unwrap();
        prop_assert_eq!(sealer.open(KIND, &token).unwrap(), &payload[..]);
        prop_assert_eq!(token.len(), sealer.seal(KIND, &vec![0; payload.len()]).unwrap().len());
    }

    #[test]
    fn no_mutated_token_opens(
        payload in proptest::collection::vec(any::<u8>(), 0..100),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let sealer = sealer('a', Some('b'));
        let token = sealer.seal(KIND, &payload).unwrap();
        let genuine = text::decode(&token[VERSION.len()..]).unwrap();
        let mut bytes = genuine.clone();
        for (place, change) in &changes {
            let place = place.index(bytes.len());
            bytes[place] ^= change;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        prop_assume!(bytes != genuine); // two changes may undo each other
        let mutated = format!("{VERSION}{}", text::encode(&bytes));
        prop_assert!(sealer.open(KIND, &mutated).is_none());
    }

    #[test]
    fn no_text_of_chance_opens(text in "(v1\\.)?[ -~]{0,200}") {
        prop_assert!(sealer('a', Some('b')).open(KIND, &text).is_none());
    }
}
