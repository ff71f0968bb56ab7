use std::time::Duration;

use tokio::time::sleep;

use super::*;

fn profile(capabilities: &'static str) -> Profile {
    Profile::of(Capabilities::read(capabilities.as_bytes()))
}

#[test]
fn a_profile_declares_what_it_was_made_of() {
    for declared in [
        "{}",
        r#"{"sampling":{}}"#,
        r#"{"sampling":{"tools":{},"context":{}},"elicitation":{"form":{},"url":{}},"roots":{}}"#,
        r#"{"elicitation":{"url":{}}}"#,
        r#"{"roots":{}}"#,
    ] {
        assert_eq!(profile(declared).capabilities().to_json(), declared);
    }
    assert_eq!(profile(r#"{"elicitation":{}}"#).capabilities().to_json(), r#"{"elicitation":{"form":{}}}"#);
    assert_eq!(
        profile(r#"{"roots":{"listChanged":true},"x":{}}"#).capabilities().to_json(),
        r#"{"roots":{}}"#
    );
}

#[test]
fn apps_are_declared_on_a_lease_and_need_none() {
    const APPS: &str =
        r#""extensions":{"io.modelcontextprotocol/ui":{"mimeTypes":["text/html;profile=mcp-app"]}}"#;
    let both = format!(r#"{{"roots":{{}},{APPS}}}"#);
    let (apps, both) = (format!("{{{APPS}}}"), Profile::of(Capabilities::read(both.as_bytes())));
    assert!(!Profile::of(Capabilities::read(apps.as_bytes())).can_be_asked());
    assert!(both.can_be_asked() && both != profile(r#"{"roots":{}}"#));
    assert!(both.capabilities().to_json().contains(APPS));
}

#[tokio::test(start_paused = true)]
async fn a_call_gets_the_seat_whose_connection_suits_it() {
    let (seats, ann) = (Seats::new(3), Arc::from("ann"));
    let (plain, rich) = (profile(r#"{"roots":{}}"#), profile(r#"{"sampling":{}}"#));
    let first = seats.try_take(&ann, plain).unwrap();
    let second = seats.try_take(&ann, rich).unwrap();
    assert_ne!(first.key(), second.key());
    let (of_plain, of_rich) = (first.key(), second.key());
    seats.set_declared(&of_plain, Some(plain));
    seats.set_declared(&of_rich, Some(rich));
    drop((first, second));
    let again = seats.try_take(&ann, rich).unwrap();
    assert_eq!(again.key(), of_rich, "the connection that there is");
    let another = seats.try_take(&ann, rich).unwrap();
    assert!(
        ![&of_plain, &of_rich].contains(&&another.key()),
        "an empty seat before one that has to be cleared"
    );
    let last = seats.try_take(&ann, rich).unwrap();
    assert_eq!(last.key(), of_plain);
    assert!(seats.try_take(&ann, plain).is_none());
    assert!(seats.try_take(&Arc::from("bob"), plain).is_some(), "each principal has seats of its own");
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_a_seat_in_turn_or_hears_that_there_is_none() {
    let (seats, ann) = (Seats::new(1), Arc::from("ann"));
    let held = seats.try_take(&ann, Profile::default()).unwrap();
    let refused = seats.take(&ann, Profile::default(), sleep(Duration::from_secs(1))).await;
    assert!(matches!(refused, Err(Bound::PrincipalConnections)));
    let waiting = tokio::spawn({
        let (seats, ann) = (seats.clone(), ann.clone());
        async move { seats.take(&ann, Profile::default(), sleep(Duration::from_secs(9))).await.is_ok() }
    });
    tokio::task::yield_now().await;
    drop(held);
    assert!(waiting.await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_kept_of_principals_that_have_nothing() {
    let (seats, ann) = (Seats::new(2), Arc::from("ann"));
    let lease = seats.try_take(&ann, Profile::default()).unwrap();
    let key = lease.key();
    seats.set_declared(&key, Some(Profile::default()));
    drop(lease);
    assert!(!seats.is_empty(), "its connection is there");
    seats.set_declared(&key, None);
    assert!(seats.is_empty());
    drop(seats.try_take(&ann, Profile::default()));
    assert!(seats.is_empty());
}
