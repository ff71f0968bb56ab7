//! `--dry-run`: tries every server and prints what would be served. No listener is opened.

use std::fmt::Write;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::servers::Servers;
use super::{limit_files, status};
use crate::auth::oauth;
use crate::call::List;
use crate::config::Config;
use crate::ops::drain::Drain;
use crate::permit::{self, Permits};
use crate::router::Gateway;
use crate::seal::Sealer;
use crate::upstream::ServerState;

/// Tries every server and the issuer of tokens. Returns the report, and whether all of them answered.
pub async fn dry_run(mut config: Config) -> (String, bool) {
    limit_files(&mut config);
    config.router.names_settle = config.router.names_settle.max(SETTLE_TIMEOUT);
    let drain = Drain::new();
    let permits = Permits::new(config.permits.clone(), permit::Metrics::default());
    let sealer = match Sealer::new(&config.seal) {
        Ok(sealer) => sealer,
        Err(error) => return (format!("{error}\n"), false),
    };
    let counts = (&mut Registry::default(), Counter::default());
    let servers = Servers::build(&config, &permits, &drain.watch(), &sealer, counts);
    servers.start();
    let keys = keys(&config).await;
    // The router lives as long as `servers`.
    let _ = servers.router.settled().wait_for(|settled| *settled).await;
    let (mut text, mut all_well) = report(&servers);
    if let Some((report, has_keys)) = keys {
        text.insert_str(0, &report);
        all_well &= has_keys;
    }
    for odd in status::odd_policy(&config).into_iter().chain(status::odd_globs(&servers)) {
        line(&mut text, &format!("policy: warning: {odd}"));
    }
    drain.run(Duration::ZERO, config.drain.grace).await;
    (text, all_well)
}

/// A line about the keys of the issuer, and whether there are any.
async fn keys(config: &Config) -> Option<(String, bool)> {
    let oauth::Config { keys, issuer, authorities, .. } = config.auth.oauth.as_ref()?;
    let name = issuer.as_str();
    Some(match keys.keys(issuer, authorities.clone()).await {
        Ok((keys, from)) if keys.is_empty() => {
            (format!("issuer {name}: no keys ({from}: {})\n", keys.useless()), false)
        }
        Ok((keys, from)) => {
            let left_out = match keys.left_out {
                0 => String::new(),
                more => format!(", and {more} that cannot be used"),
            };
            (format!("issuer {name}: {} keys (from {from}{left_out})\n", keys.len()), true)
        }
        Err(why) => (format!("issuer {name}: no keys ({why})\n"), false),
    })
}

/// The longest wait for the first answers of all servers. 2 min: no call waits meanwhile, and a dozen servers that start at
/// once on a small machine take half a minute.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);

fn report(servers: &Servers) -> (String, bool) {
    let (mut text, mut all_answered) = (String::new(), true);
    for pool in &servers.pools() {
        let now = pool.status();
        let complaints = servers.router.complaints(pool.name());
        let answered = matches!(now.state, ServerState::Up | ServerState::Sleeping) && complaints.listed;
        all_answered &= answered;
        let detail = match (answered, now.era, now.last_error) {
            (true, Some(era), _) => status::era(era).to_owned(),
            (_, _, Some(error)) => error,
            _ if !complaints.all.is_empty() => complaints.all.join("; "),
            _ => "no answer yet".to_owned(),
        };
        line(&mut text, &format!("server {}: {} ({detail})", pool.name(), status::word(now.state)));
        for complaint in complaints.all.iter().filter(|_| complaints.listed) {
            line(&mut text, &format!("  warning: {complaint}"));
        }
        if status::shares_a_process(servers, pool) {
            line(&mut text, &format!("  note: {}", status::ONE_PRINCIPAL));
        }
    }
    let catalog = servers.router.catalog();
    for (list, key) in List::ALL.into_iter().zip(["name", "name", "uri", "uriTemplate"]) {
        let word = list.key();
        let list: Value = serde_json::from_slice(&catalog.views.all.list(list).bytes()).unwrap_or_default();
        let items = list.get(word).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        line(&mut text, &format!("{word}: {}", items.len()));
        for item in items.iter().filter_map(|item| item.get(key)?.as_str()) {
            line(&mut text, &format!("  {item}"));
        }
    }
    (text, all_answered)
}

fn line(text: &mut String, line: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(text, "{line}");
}
