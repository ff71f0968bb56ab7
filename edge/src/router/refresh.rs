//! Keeps one server's part of the catalog true, in the background, whatever the other servers do.
//!
//! ```text
//!          ┌─ failed: back off ─┐
//!          ▼                    │
//!   ──▶ Listing ── listed ──▶ Resting ── list_changed, or the server came back ──▶ Listing
//! ```
//! What is announced after a list was asked for may be missing from it, so it is asked for again. Real servers announce
//! up to five changes at each start: those of one `refresh_gap` are taken together. The gap doubles with each listing
//! that brings nothing new, for some servers announce a change whenever they are asked. One list that cannot be read is
//! asked for again, ever less often; the others are shown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use wire::limits::Limits;
use wire::mcp::method::Notice;

use super::mend::{Fault, mend};
use super::part::Part;
use super::{Router, Shared, own};
use crate::call::List;
use crate::error::Error;
use crate::upstream::{Changes, Pool};

/// Gives out names at the latest `names_settle` from now.
pub fn settle(router: &Router) {
    let (shared, drain) = (router.shared.clone(), &router.shared.drain);
    let configured = shared.configured();
    drain.spawn(async move {
        tokio::select! {
            () = shared.drain.leaving() => {}
            () = sleep(shared.config.names_settle) => shared.settle(configured),
        }
    });
}

/// Keeps the part of a server that the router has until it is `gone`.
pub fn follow(router: &Router, pool: Arc<Pool>, gone: CancellationToken) {
    let Some(number) = router.shared.index(pool.name()) else { return };
    let (shared, drain) = (router.shared.clone(), &router.shared.drain);
    if let Some(announcing) = pool.announcing() {
        drain.spawn(own::follow(router.clone(), (number, pool.name().clone()), (announcing, gone.clone())));
    }
    drain.spawn(async move {
        tokio::select! {
            () = shared.drain.leaving() => {}
            () = gone.cancelled() => {}
            never = keep(&shared, number, &pool) => match never {},
        }
    });
}

async fn keep(router: &Arc<Shared>, index: usize, pool: &Pool) -> Infallible {
    let mut changes = pool.changes();
    let mut part = Part::default();
    let mut read = Changes::default();
    let mut wanted = Wanted::ALL;
    let mut backoff = BACKOFF_FIRST;
    let mut gap = router.config.refresh_gap;
    loop {
        router.metrics.listings.inc();
        let before = part.clone();
        let listed = list(pool, &mut part, wanted, (&changes, &mut read), &router.config.limits).await;
        let failed = match listed {
            Ok(()) => {
                tell(&before, &part, pool);
                router.listed(index, part.clone());
                unread(&part)
            }
            Err(error) => {
                tracing::warn!(server = %pool.name(), %error, "server could not be listed");
                router.failed(index, error);
                router.metrics.listing_failures.inc();
                wanted = Wanted::ALL;
                wait_for_return(&mut changes, backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MOST);
                continue;
            }
        };
        gap = pause(gap, part != before, router.config.refresh_gap);
        let next = Instant::now() + gap;
        wanted = if failed.any() {
            router.metrics.listing_failures.inc();
            let announced = timeout(backoff, rest(&mut changes, &read)).await.unwrap_or(Wanted::NONE);
            backoff = (backoff * 2).min(BACKOFF_MOST_OF_LIST);
            failed.and(announced)
        } else {
            backoff = BACKOFF_FIRST;
            rest(&mut changes, &read).await
        };
        sleep_until(next).await;
        wanted = wanted.and(Wanted::since(&read, &changes.borrow_and_update()));
    }
}

/// Said of a server that shows nothing to anybody, which is hardly meant so.
pub(super) const LISTS_NOTHING: &str =
    "its capabilities declare no tools, prompts or resources, so none are listed";

/// The lists to ask for again.
fn unread(part: &Part) -> Wanted {
    let has = |lists: &[List]| part.unread.iter().any(|(unread, _)| lists.contains(unread));
    Wanted {
        tools: has(&[List::Tools]),
        prompts: has(&[List::Prompts]),
        resources: has(&[List::Resources, List::Templates]),
    }
}

/// Log lines for what was not so `before`.
fn tell(before: &Part, now: &Part, pool: &Pool) {
    let server = pool.name();
    if now.lists_nothing && !before.lists_nothing {
        tracing::warn!(%server, "{LISTS_NOTHING}");
    }
    for (list, error) in &now.unread {
        if !before.unread.iter().any(|(known, _)| known == list) {
            let list = list.method().as_str();
            tracing::warn!(%server, list, %error, "list left out until it can be read");
        }
    }
    for (list, faults) in &now.faults {
        let known = before.faults.get(list).cloned().unwrap_or_default();
        let list = list.method().as_str();
        let news: Vec<_> = faults.first.iter().filter(|fault| !known.first.contains(fault)).collect();
        for Fault { item, what, .. } in news.iter().take(FAULTS_TOLD) {
            tracing::warn!(%server, list, item, what, "clients would refuse this item");
        }
        let more = news.len().saturating_sub(FAULTS_TOLD) + faults.more.saturating_sub(known.more);
        if more > 0 {
            tracing::warn!(%server, list, more, "clients would refuse more items");
        }
    }
}

/// The least time between a listing and the next.
pub(super) fn pause(last: Duration, brought_news: bool, least: Duration) -> Duration {
    if brought_news { least } else { (last * 2).min(GAP_MOST) }
}

/// Until something is worth reading again.
async fn rest(changes: &mut watch::Receiver<Changes>, read: &Changes) -> Wanted {
    loop {
        let now = *changes.borrow_and_update();
        if now.down {
            // What comes back may be another version of the server.
            let _ = changes.wait_for(|changes| !changes.down).await;
            return Wanted::ALL;
        }
        let wanted = Wanted::since(read, &now);
        if wanted.any() {
            return wanted;
        }
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await; // the pool is gone: so is this task, soon
        }
    }
}

/// Until the backoff is over, or a server that was down is back.
async fn wait_for_return(changes: &mut watch::Receiver<Changes>, backoff: Duration) {
    let was_down = changes.borrow_and_update().down;
    tokio::select! {
        () = sleep(backoff) => {}
        _ = changes.wait_for(|changes| !changes.down), if was_down => {}
    }
}

/// Lists what is wanted, and notes in `read` what had been announced when each list was asked for. A list that cannot
/// be read stays as it was, and costs no other one.
///
/// # Errors
/// When the server cannot be reached.
async fn list(
    pool: &Pool,
    part: &mut Part,
    wanted: Wanted,
    (changes, read): (&watch::Receiver<Changes>, &mut Changes),
    limits: &Limits,
) -> Result<(), Error> {
    read.lost = changes.borrow().lost;
    let facts = pool.facts().await?;
    part.instructions.clone_from(&facts.instructions);
    part.completes = facts.can("completions");
    part.lists_nothing = !facts.can_list();
    for list in wanted.lists() {
        let now = *changes.borrow();
        match list {
            List::Tools => read.tools = now.tools,
            List::Prompts => read.prompts = now.prompts,
            List::Resources => read.resources = now.resources,
            List::Templates => {}
        }
        part.unread.retain(|(failed, _)| *failed != list);
        match pool.list(list).await {
            Ok(listed) => {
                let (mended, faults) = mend(list, listed, limits).await;
                *part.items_mut(list) = mended;
                part.faults.insert(list, faults);
            }
            Err(error) => part.unread.push((list, error)),
        }
    }
    Ok(())
}

/// Which lists to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    tools: bool,
    prompts: bool,
    resources: bool,
}

impl Wanted {
    const ALL: Self = Self { tools: true, prompts: true, resources: true };
    const NONE: Self = Self { tools: false, prompts: false, resources: false };

    /// What was announced.
    pub(super) fn of(notices: &[Notice]) -> Self {
        Self {
            tools: notices.contains(&Notice::ToolsChanged),
            prompts: notices.contains(&Notice::PromptsChanged),
            resources: notices.contains(&Notice::ResourcesChanged),
        }
    }

    fn since(read: &Changes, now: &Changes) -> Self {
        if now.lost != read.lost {
            return Self::ALL;
        }
        Self {
            tools: now.tools != read.tools,
            prompts: now.prompts != read.prompts,
            resources: now.resources != read.resources,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            tools: self.tools || other.tools,
            prompts: self.prompts || other.prompts,
            resources: self.resources || other.resources,
        }
    }

    fn any(self) -> bool {
        self.tools || self.prompts || self.resources
    }

    pub(super) fn lists(self) -> impl Iterator<Item = List> {
        List::ALL.into_iter().filter(move |list| match list {
            List::Tools => self.tools,
            List::Prompts => self.prompts,
            List::Resources | List::Templates => self.resources,
        })
    }
}

/// The longest pause between two listings of one server. 30 s: as long as clients may keep a list anyway.
const GAP_MOST: Duration = Duration::from_secs(30);
/// The first wait after a failure. 500 ms: a server that starts beside us is there soon.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// The longest wait. 15 s: a server that comes back is noticed by its users later than by us.
const BACKOFF_MOST: Duration = Duration::from_secs(15);
/// The longest wait for one list of a server that answers others. 1 h: longer than `idle_timeout`, so that a server
/// which never answers it can sleep.
const BACKOFF_MOST_OF_LIST: Duration = Duration::from_secs(3600);
/// Items of one list that get a log line each. 20: enough to see what is wrong with a server.
const FAULTS_TOLD: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_announces_changes_all_the_time_is_asked_ever_less() {
        let least = Duration::from_millis(500);
        let mut gap = least;
        let gaps: Vec<u128> = (0..8)
            .map(|_| {
                gap = pause(gap, false, least);
                gap.as_millis()
            })
            .collect();
        assert_eq!(gaps, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(pause(gap, true, least), least, "until there is something new");
    }
}
