//! `policy`: its settings and its problems, and that nothing missing by mistake allows anything.

use super::*;

use edge::router::policy::{ENTRIES, GLOBS, Rule};

fn policy(test: &str, text: &str) -> Option<Vec<Rule>> {
    let file = Written::new(test, text);
    match run(&["--config", &file.path(), "--servers=time"], &[TOKEN]) {
        Ok(Command::Serve(config)) => config.router.policy,
        other => panic!("{other:?}"),
    }
}

fn shown(rules: Option<Vec<Rule>>) -> Vec<String> {
    let shown = |rule: Rule| format!("{:?} {:?} {:?}", rule.principals, rule.grant.servers, rule.grant.tools);
    rules.unwrap().into_iter().map(shown).collect()
}

#[test]
fn entries_keep_their_order_and_what_is_not_said_is_all() {
    assert!(policy("policy-0", "prefix: always\n").is_none());
    let text = "policy:\n  zoe: {servers: ['*']}\n  'ci-*': {servers: [time, 'git*'], tools: ['get_*', '!get_secret']}\n  \
                bob: {servers: []}\n  eve: {}\n  '*': {tools: time__now}\n";
    let all = [
        "zoe [*] [*]",
        "ci-* [time, git*] [get_*, !get_secret]",
        "bob [] [*]",
        "eve [*] [*]",
        "* [*] [time__now]",
    ];
    assert_eq!(shown(policy("policy-1", text)), all);
    let text = "policy: [{zoe: {}}, {'ci-*': {servers: time}, a: {}}, {'*': {servers: []}}]\n";
    let all = ["zoe [*] [*]", "ci-* [time] [*]", "a [*] [*]", "* [] [*]"];
    assert_eq!(shown(policy("policy-2", text)), all, "where a tool would sort the keys of a map");
}

/// A policy, the place of its problem, and part of the problem's text.
const REFUSED: &[(&str, &str, &str)] = &[
    ("policy:\n", "edge.yaml:1: policy", "nobody could use anything"),
    ("policy: {}\n", "edge.yaml:1: policy", "nobody could use anything"),
    ("policy: []\n", "edge.yaml:1: policy", "nobody could use anything"),
    ("policy: [alice]\n", "edge.yaml:1: policy[0]", "keys with values belong here"),
    ("policy:\n  alice:\n", "edge.yaml:2: policy.alice", "say what it may use"),
    ("policy:\n  '': {}\n", "edge.yaml:2: policy.", "an empty glob matches nothing"),
    ("policy:\n  a: {severs: [x]}\n", "edge.yaml:2: policy.a.severs", "the nearest is `policy.a.servers`"),
    ("policy:\n  a: {servers:}\n", "edge.yaml:2: policy.a.servers", "`[]` is none"),
    ("policy:\n  a: {tools: [b, '']}\n", "edge.yaml:2: policy.a.tools[1]", "a value belongs here"),
    ("policy:\n  a: {tools: [b, '!']}\n", "edge.yaml:2: policy.a.tools[1]", "an empty glob matches nothing"),
    ("policy:\n  a: {tools: ['!b', c]}\n", "edge.yaml:2: policy.a.tools[0]", "begin with what is allowed"),
    (
        "policy:\n  a: {servers: {b: c}}\n",
        "edge.yaml:2: policy.a.servers",
        "one value belongs here, not keys",
    ),
    (
        "policy:\n  a*: {}\n  ab?: {}\n",
        "edge.yaml:3: policy.ab?",
        "never applies, because `a*` comes before it",
    ),
    (
        "policy:\n  a: {servers: [time, '!vault', '*']}\n",
        "edge.yaml:2: policy.a.servers[1]",
        "it denies nothing, because `*` comes after it",
    ),
    ("policy:\n  a: {tools: ['*', '!get_x', 'get_*']}\n", "edge.yaml:2: policy.a.tools[1]", "denies nothing"),
    ("policy:\n  a: {tools: ['*', '!!x']}\n", "edge.yaml:2: policy.a.tools[1]", "at most one `!`"),
    ("policy:\n  a: {tools: ['*', '!x ']}\n", "edge.yaml:2: policy.a.tools[1]", "without spaces"),
    ("policy:\n  a: {tools: ['*', '! x']}\n", "edge.yaml:2: policy.a.tools[1]", "without spaces"),
    ("policy:\n  a: {servers: [time vault]}\n", "edge.yaml:2: policy.a.servers[0]", "without spaces"),
    (
        "policy: {a: {}}\nauth: {tokens: [{env: MCP_GATEWAY_AUTH_TOKEN, principal: 'a*'}]}\n",
        "edge.yaml:2: auth.tokens[0]",
        "stands for `a*`",
    ),
    ("polcy: {a: {}}\n", "edge.yaml:1: polcy", "the nearest is `policy`"),
];

#[test]
fn what_is_missing_or_wrong_is_refused() {
    for (n, (text, place, why)) in REFUSED.iter().enumerate() {
        let said = complaints(&format!("policy-wrong-{n}"), text);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with(&format!("{place}: ")) && said[0].contains(*why), "{text}{said:?}");
    }
}

#[test]
fn a_denial_that_leaves_something_of_itself_is_no_mistake() {
    for (n, tools) in [
        "'*', '!x__y', 'x*'",
        "'*', '!get_*', 'get_x'",
        "'*', '!git_*', 'git_*s'",
        "'*', '!git_*', 'git_*'",
        "'*', '!Get Weather'",
    ]
    .iter()
    .enumerate()
    {
        assert!(
            policy(&format!("policy-left-{n}"), &format!("policy: {{a: {{tools: [{tools}]}}}}\n")).is_some()
        );
    }
}

#[test]
fn entries_globs_and_characters_are_bounded() {
    let entries = |n: usize| (0..n).map(|n| format!("  p{n}: {{}}\n")).collect::<String>();
    let globs = |n: usize| format!("policy: {{a: {{tools: [{}]}}}}\n", vec!["x"; n].join(", "));
    assert_eq!(policy("policy-many", &format!("policy:\n{}", entries(ENTRIES))).unwrap().len(), ENTRIES);
    assert!(policy("policy-globs", &globs(GLOBS)).is_some());
    for (test, text, why) in [
        ("too-many", format!("policy:\n{}", entries(ENTRIES + 1)), "there are 257 entries, and at most 256"),
        ("too-globs", globs(GLOBS + 1), "there are 257 globs, and at most 256"),
        ("too-long", format!("policy: {{{}: {{}}}}\n", "x".repeat(257)), "a glob has at most 256 characters"),
    ] {
        let said = complaints(test, &text);
        assert!(said.len() == 1 && said[0].contains(why), "{said:?}");
    }
}
