//! Permits for open listens. A listen is no call: a client that listens all day takes nothing from those that call.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Bound, Permits};

/// Open listens by principal.
pub(super) type Counts = Mutex<HashMap<Arc<str>, usize>>;

/// One open listen of one principal.
pub struct ListenPermit {
    permits: Permits,
    principal: Arc<str>,
}

impl Permits {
    /// The permit of one more listen of `principal`.
    ///
    /// # Errors
    /// [`Bound::Listens`] when it has as many as are allowed.
    pub fn listen(&self, principal: &Arc<str>) -> Result<ListenPermit, Bound> {
        let shared = &self.shared;
        let mut counts = shared.listens.lock();
        let count = counts.entry(principal.clone()).or_default();
        if *count >= shared.config.listens {
            return Err(shared.hit(Bound::Listens));
        }
        *count += 1;
        Ok(ListenPermit { permits: self.clone(), principal: principal.clone() })
    }
}

impl Drop for ListenPermit {
    fn drop(&mut self) {
        let mut counts = self.permits.shared.listens.lock();
        if let Some(count) = counts.get_mut(&self.principal) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.principal);
            }
        }
    }
}

impl fmt::Debug for ListenPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ListenPermit")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Metrics};
    use super::*;

    #[test]
    fn listens_are_bounded_per_principal_and_are_no_calls() {
        let config = Config { listens: 2, calls: 1, ..Config::default() };
        let permits = Permits::new(config, Metrics::default());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let held = [permits.listen(&a).unwrap(), permits.listen(&a).unwrap()];
        assert_eq!(permits.listen(&a).unwrap_err(), Bound::Listens);
        assert!(permits.listen(&b).is_ok() && permits.call(&a).is_ok());
        drop(held);
        assert!(permits.listen(&a).is_ok());
        assert!(permits.shared.listens.lock().is_empty(), "who has none is not kept in mind");
    }
}
