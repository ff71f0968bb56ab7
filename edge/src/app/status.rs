//! Reports the state of servers and likely mistakes to operators: `/ready` on the admin port, the log, `--dry-run`.

use serde_json::{Value, json};
use wire::Era;

use super::servers::Servers;
use crate::auth::{ANONYMOUS, oauth};
use crate::config::{Config, Transport};
use crate::front::stdio::LOCAL;
use crate::ops::admin::Readiness;
use crate::ops::drain::DrainWatch;
use crate::router::{Complaints, Gateway};
use crate::upstream::{Pool, ServerState};

/// The admin port's answer to `/ready`. The state of single servers does not matter: a gateway with a server that is down
/// serves the others.
pub(super) fn readiness(servers: Servers, drain: DrainWatch) -> impl Fn() -> Readiness + Send + Sync {
    move || {
        let (is_settled, is_leaving) = (*servers.router.settled().borrow(), drain.is_leaving());
        let is_ready = is_settled && !is_leaving;
        let pools = servers.pools();
        let states = pools.iter();
        let states =
            states.map(|pool| (pool.name().to_string(), state(pool, servers.router.complaints(pool.name()))));
        let json = json!({
            "ready": is_ready,
            "settled": is_settled,
            "draining": is_leaving,
            "servers": states.collect::<serde_json::Map<_, _>>(),
        });
        Readiness { is_ready, json: json.to_string() }
    }
}

/// Logs the state of each server, once names are given out.
pub(super) fn log_servers(servers: &Servers) {
    for pool in &servers.pools() {
        let status = pool.status();
        let (server, state, error) = (pool.name(), word(status.state), status.last_error);
        match status.state {
            ServerState::Up | ServerState::Sleeping => {
                tracing::info!(%server, state, era = status.era.map(era), "server");
            }
            ServerState::Failing | ServerState::Down | ServerState::Unknown => {
                tracing::warn!(%server, state, error, "server");
            }
        }
        if shares_a_process(servers, pool) {
            tracing::info!(%server, "{}", ONE_PRINCIPAL);
        }
    }
}

/// Whether clients without sessions share one process of this server, which may keep state for each of them.
pub(super) fn shares_a_process(servers: &Servers, pool: &Pool) -> bool {
    servers.is_one_principal() && pool.status().era == Some(Era::Legacy)
}

/// Logged for each such server.
pub(super) const ONE_PRINCIPAL: &str = "clients without a session share one process of this server, because all \
     credentials map to one principal; if the server keeps state, give each user their own token";

/// Likely mistakes in the policy: principals that may use nothing, and globs that match no server.
pub(super) fn odd_policy(config: &Config) -> Vec<String> {
    let Some(rules) = config.router.policy.as_deref() else { return Vec::new() };
    let mut odd = Vec::new();
    let tokens = config.auth.tokens.iter().map(|token| token.principal.as_str());
    let mut principals: Vec<&str> = match config.transport {
        Transport::Stdio => vec![LOCAL],
        Transport::Http if !config.auth.asks() => vec![ANONYMOUS],
        Transport::Http => tokens.collect(),
    };
    principals.sort_unstable();
    principals.dedup();
    for principal in principals {
        if !rules.iter().any(|rule| rule.is_about(principal)) {
            odd.push(format!("no entry matches the principal `{principal}`, which may use nothing"));
        }
    }
    let prefix = oauth::PREFIX;
    let has_oauth = config.transport == Transport::Http && config.auth.oauth.is_some();
    if has_oauth && !rules.iter().any(|rule| rule.may_be_about_prefix(prefix)) {
        odd.push(format!(
            "no entry matches a principal of `auth.oauth` (`{prefix}…`), so users who log in may use nothing; add an entry \
             for `{prefix}*`"
        ));
    }
    for rule in rules {
        for step in rule.grant.servers.steps() {
            let mut slugs = config.servers.iter().map(|server| server.upstream.name.as_str());
            if !slugs.any(|slug| step.glob.fits(slug)) {
                let principals = rule.principals.as_str();
                odd.push(format!("`{step}` in the servers of `{principals}` matches no server"));
            }
        }
    }
    odd
}

/// Logs [`odd_policy`].
pub(super) fn log_odd_policy(config: &Config) {
    for odd in odd_policy(config) {
        tracing::warn!(odd, "policy");
    }
}

/// Tool globs of the policy that match no known tool. A misspelt denial denies nothing.
pub(super) fn odd_globs(servers: &Servers) -> Vec<String> {
    let idle = servers.router.idle_globs().into_iter();
    idle.map(|(principals, glob)| {
        format!("`{glob}` in the tools of `{principals}` matches no tool of its servers, so it has no effect")
    })
    .collect()
}

/// Logs [`odd_globs`].
pub(super) fn log_odd_globs(servers: &Servers) {
    for odd in odd_globs(servers) {
        tracing::warn!(odd, "policy");
    }
}

pub(super) fn word(state: ServerState) -> &'static str {
    match state {
        ServerState::Up => "up",
        ServerState::Sleeping => "sleeping",
        ServerState::Failing => "failing",
        ServerState::Down => "down",
        ServerState::Unknown => "unknown",
    }
}

pub(super) fn era(era: Era) -> &'static str {
    match era {
        Era::Modern => "modern",
        Era::Legacy => "legacy",
    }
}

fn state(pool: &Pool, mut complaints: Complaints) -> Value {
    complaints.all.truncate(COMPLAINTS);
    let status = pool.status();
    json!({
        "state": word(status.state),
        "era": status.era.map(era),
        "connections": status.connections,
        "in_flight": status.in_flight,
        "for_seconds": status.since.elapsed().as_secs(),
        "last_error": status.last_error,
        "listed": complaints.listed,
        "complaints": complaints.all,
    })
}

/// Complaints shown for one server. 20: enough to see what is wrong with it.
const COMPLAINTS: usize = 20;

#[cfg(test)]
mod tests {
    use testkit::process::Scratch;

    use super::*;
    use crate::config::{Command, load};

    fn odd(text: &str) -> Vec<String> {
        let scratch = Scratch::new();
        let file = scratch.write("edge.yaml", &format!("servers: {{quartz: {{}}}}\n{text}"));
        let args = ["mcp-edge", "--config", file.to_str().unwrap()].map(Into::into);
        let Ok(Command::Serve(config)) = load(args, |name| (name == "T").then(|| "secret".to_owned())) else {
            panic!("it is valid: {text}")
        };
        odd_policy(&config)
    }

    #[test]
    fn odd_policy_names_principals_that_may_use_nothing() {
        let policy = "policy: {'oauth:*': {}}\n";
        let oauth = "oauth: {resource: 'https://edge.example/mcp', issuer: 'https://idp.example'}";
        let fits_none = |principal: &str| {
            vec![format!("no entry matches the principal `{principal}`, which may use nothing")]
        };
        assert_eq!(odd(&format!("listen: '127.0.0.1:0'\n{policy}")), fits_none("anonymous"));
        assert_eq!(odd(&format!("auth: {{{oauth}}}\n{policy}")), Vec::<String>::new());
        let token = "tokens: [{env: T, principal: ann}]";
        assert_eq!(odd(&format!("auth: {{{token}, {oauth}}}\n{policy}")), fits_none("ann"));
        let ann_alone = odd(&format!("auth: {{{token}, {oauth}}}\npolicy: {{ann: {{}}}}\n"));
        assert!(
            matches!(&ann_alone[..], [why] if why.contains("may use nothing; add an entry for `oauth:*`"))
        );
        assert_eq!(odd(&format!("auth: {{{oauth}}}\npolicy: {{'*:ann': {{}}}}\n")), Vec::<String>::new());
        assert_eq!(
            odd("auth: {tokens: [{env: T, principal: ann}]}\npolicy: {ann: {servers: [quarz]}}"),
            ["`quarz` in the servers of `ann` matches no server"]
        );
    }
}
