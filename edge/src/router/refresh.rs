//! Keeps the part of each server up to date, in the background and independently of the other servers.
//!
//! ```text
//!          ┌─ failed: back off ─┐
//!          ▼                    │
//!   ──▶ Listing ── listed ──▶ Resting ── list_changed, the server came back, or a client finds the lists old ──▶ Listing
//! ```
//! A change that is announced while a list is read may be missing from it, so the list is read again. Real servers
//! announce up to five changes at each start: those within one `refresh_gap` are read together. The gap doubles with each
//! listing that changes nothing, because some servers announce a change whenever they are listed. A list that cannot be
//! read is tried again, less and less often; the other lists are shown.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use wire::limits::Limits;
use wire::mcp::method::Notice;

use super::list_age::ListAge;
use super::part::Part;
use super::repair::{ItemDefect, repair};
use super::server_set::ServerIndex;
use super::{Router, Shared, session_relist};
use crate::call::List;
use crate::error::Error;
use crate::upstream::{Changes, Pool};

/// Gives out names at the latest when `names_settle` from now is over.
pub fn settle(router: &Router) {
    let (shared, drain) = (router.shared.clone(), &router.shared.drain);
    let config_version = shared.config_version();
    drain.spawn(async move {
        tokio::select! {
            () = shared.drain.leaving() => {}
            () = sleep(shared.config.names_settle) => shared.settle(config_version),
        }
    });
}

/// Keeps the lists of a server up to date until the server is `gone` from the configuration.
pub fn follow(router: &Router, pool: Arc<Pool>, gone: CancellationToken) {
    let Some(index) = router.shared.index(pool.name()) else { return };
    let (shared, drain) = (router.shared.clone(), &router.shared.drain);
    if let Some(announcing) = pool.announcing() {
        drain.spawn(session_relist::follow(
            router.clone(),
            (index, pool.name().clone()),
            (announcing, gone.clone()),
        ));
    }
    let age = shared.list_ages.add(index, pool.changes());
    drain.spawn(async move {
        tokio::select! {
            () = shared.drain.leaving() => {}
            () = gone.cancelled() => {}
            never = keep(&shared, (index, &age), &pool) => match never {},
        }
    });
}

async fn keep(router: &Arc<Shared>, (index, age): (ServerIndex, &ListAge), pool: &Pool) -> Infallible {
    let mut changes = pool.changes();
    let mut part = Part::default();
    let mut read = Changes::default();
    let mut wanted = Wanted::ALL;
    let mut backoff = BACKOFF_FIRST;
    let mut gap = router.config.refresh_gap;
    loop {
        router.metrics.listings.inc();
        let (began, before) = (Instant::now(), part.clone());
        let listed = list(pool, &mut part, wanted, (&changes, &mut read), &router.config.limits).await;
        let failed = match listed {
            Ok(()) => {
                log_problems(&before, &part, pool);
                pool.set_lists_unread(part.unread.len());
                router.listed(index, part.clone());
                unread(&part)
            }
            Err(error) => {
                tracing::warn!(server = %pool.name(), %error, "server could not be listed");
                router.failed(index, error);
                pool.set_lists_unread(List::ALL.len());
                router.metrics.listing_failures.inc();
                wanted = Wanted::ALL;
                age.finished(began, Instant::now() + backoff);
                wait_for_return(&mut changes, backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MOST);
                continue;
            }
        };
        gap = pause(gap, part != before, router.config.refresh_gap);
        let next = Instant::now() + gap;
        age.finished(began, next);
        wanted = if failed.any() {
            router.metrics.listing_failures.inc();
            let announced = timeout(backoff, rest(&mut changes, &read, age)).await.unwrap_or(Wanted::NONE);
            backoff = (backoff * 2).min(BACKOFF_MOST_OF_LIST);
            failed.and(announced)
        } else {
            backoff = BACKOFF_FIRST;
            rest(&mut changes, &read, age).await
        };
        sleep_until(next).await;
        wanted = wanted.and(Wanted::since(&read, &changes.borrow_and_update()));
    }
}

/// Reported about a server that shows nothing to anybody, which is hardly intended.
pub(super) const LISTS_NOTHING: &str =
    "its capabilities declare no tools, prompts or resources, so none are listed";

/// The lists that could not be read.
fn unread(part: &Part) -> Wanted {
    let has = |lists: &[List]| part.unread.iter().any(|(unread, _)| lists.contains(unread));
    Wanted {
        tools: has(&[List::Tools]),
        prompts: has(&[List::Prompts]),
        resources: has(&[List::Resources, List::Templates]),
    }
}

/// Logs what is wrong now and was not `before`.
fn log_problems(before: &Part, now: &Part, pool: &Pool) {
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
    for (list, defects) in &now.defects {
        let known = before.defects.get(list).cloned().unwrap_or_default();
        let list = list.method().as_str();
        let new: Vec<_> = defects.first.iter().filter(|defect| !known.first.contains(defect)).collect();
        for ItemDefect { item, what, .. } in new.iter().take(DEFECTS_LOGGED) {
            tracing::warn!(%server, list, item, what, "clients would refuse this item");
        }
        let more = new.len().saturating_sub(DEFECTS_LOGGED) + defects.more.saturating_sub(known.more);
        if more > 0 {
            tracing::warn!(%server, list, more, "clients would refuse more items");
        }
    }
}

/// The pause between a listing and the next.
pub(super) fn pause(last: Duration, has_changed: bool, least: Duration) -> Duration {
    if has_changed { least } else { (last * 2).min(GAP_MOST) }
}

/// Waits until a list has to be read again, and returns which.
async fn rest(changes: &mut watch::Receiver<Changes>, read: &Changes, age: &ListAge) -> Wanted {
    loop {
        let now = *changes.borrow_and_update();
        if now.down {
            // The server that comes back may be another version.
            let _ = changes.wait_for(|changes| !changes.down).await;
            return Wanted::ALL;
        }
        let wanted = Wanted::since(read, &now);
        if wanted.any() {
            return wanted;
        }
        // Both arms are cancel-safe: each waits for a state that stays.
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                std::future::pending::<()>().await; // the pool is gone, and this task will be dropped
            },
            () = age.wanted() => return Wanted::ALL,
        }
    }
}

/// Waits until the backoff is over, or a server that was down is back.
async fn wait_for_return(changes: &mut watch::Receiver<Changes>, backoff: Duration) {
    let was_down = changes.borrow_and_update().down;
    tokio::select! {
        () = sleep(backoff) => {}
        _ = changes.wait_for(|changes| !changes.down), if was_down => {}
    }
}

/// Reads the wanted lists into `part`, and notes in `read` what had been announced when each list was requested. A list
/// that cannot be read stays as it was and does not affect the others.
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
                let (items, defects) = repair(list, listed, limits).await;
                *part.items_mut(list) = items;
                part.defects.insert(list, defects);
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

    /// The lists that these notifications announce.
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
/// The first wait after a failure. 500 ms: a server that starts together with the edge is up soon.
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// The longest wait after a failure. 15 s: users notice a server that comes back later than that.
const BACKOFF_MOST: Duration = Duration::from_secs(15);
/// The longest wait before a single list is tried again. 1 h: longer than `idle_timeout`, so that a server that never
/// answers it can sleep.
const BACKOFF_MOST_OF_LIST: Duration = Duration::from_secs(3600);
/// Items of one list that get a log line each. 20: enough to see what is wrong with the server.
const DEFECTS_LOGGED: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_after_listings_without_change_doubles_up_to_a_bound() {
        let least = Duration::from_millis(500);
        let mut gap = least;
        let gaps: Vec<u128> = (0..8)
            .map(|_| {
                gap = pause(gap, false, least);
                gap.as_millis()
            })
            .collect();
        assert_eq!(gaps, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(pause(gap, true, least), least, "after a change");
    }
}
