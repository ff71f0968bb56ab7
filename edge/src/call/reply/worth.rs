//! How much events matter: where there is no room for all, the least important is dropped first.
//!
//! Guarantees: a server's question is never dropped for another event. Pure. It must not know who reads the events.

use std::collections::VecDeque;

use wire::mcp::method::Notice;

use super::Event;

impl Event {
    /// The memory that it takes, about. Its message is no slice of more than itself (`upstream/conn/reader.rs`).
    pub(super) fn bytes(&self) -> usize {
        let message = match self {
            Self::Progress(message) | Self::Notice(_, message) => message,
            Self::Ask(ask) => &ask.request,
        };
        message.bytes().len() + EVENT_COST
    }

    pub(super) fn worth(&self) -> Worth {
        match self {
            Self::Progress(_) => Worth::Progress,
            Self::Notice(Notice::Message, _) => Worth::Log,
            Self::Notice(..) => Worth::News,
            Self::Ask(_) => Worth::Ask,
        }
    }
}

/// The importance of an event: when there is no room for all, the least important is dropped first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// The next one says more.
    Progress,
    Log,
    /// Without it the client would keep an outdated list or resource.
    News,
    /// A server waits for the answer.
    Ask,
}

/// What an event takes beside its message. 512 bytes: its place in the queue, and what the scan found in the message. Without
/// it thousands of short messages would take several times what is counted.
pub(super) const EVENT_COST: usize = 512;

/// What may be dropped for other events, the least important first.
const DROPPED: [Worth; 3] = [Worth::Progress, Worth::Log, Worth::News];

/// The events that wait for the consumer, and their bytes by what they are worth.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    events: VecDeque<Event>,
    bytes: [usize; 4],
    /// How often all that waits was looked through.
    #[cfg(test)]
    searches: usize,
}

impl Waiting {
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The bytes of all events.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.iter().sum()
    }

    pub(super) fn push(&mut self, event: Event) {
        *self.bytes_of(event.worth()) += event.bytes();
        self.events.push_back(event);
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        *self.bytes_of(event.worth()) -= event.bytes();
        Some(event)
    }

    /// Drops what matters least, of equals the newest, until so many bytes are free. Nothing goes if all that matters no
    /// more than `worth` would not be enough; an ask never does.
    ///
    /// A flood of equal events touches only the queue's end, so it is not searched for each.
    pub(super) fn make_room(&mut self, bytes: usize, worth: Worth) -> bool {
        // Usually a progress event replaces the one before.
        if let Some(last) =
            self.events.pop_back_if(|last| last.worth() == Worth::Progress && last.bytes() >= bytes)
        {
            *self.bytes_of(Worth::Progress) -= last.bytes();
            return true;
        }
        let may_go = || DROPPED.into_iter().filter(|class| *class <= worth);
        if may_go().map(|class| *self.bytes_of(class)).sum::<usize>() < bytes {
            return false;
        }
        let mut free = 0;
        for class in may_go() {
            free += self.drop_newest(class, bytes.saturating_sub(free));
        }
        true
    }

    /// Drops the newest events of `class` until so many bytes are free, or none is left. Returns the bytes that are.
    fn drop_newest(&mut self, class: Worth, bytes: usize) -> usize {
        let mut free = 0;
        while free < bytes
            && let Some(event) = self.events.pop_back_if(|last| last.worth() == class)
        {
            free += event.bytes();
        }
        // Usually that was enough: the end of the queue is where the newest are.
        if free < bytes && *self.bytes_of(class) > free {
            #[cfg(test)]
            {
                self.searches += 1;
            }
            let mut goes = vec![false; self.events.len()];
            for (event, goes) in self.events.iter().zip(&mut goes).rev() {
                if free < bytes && event.worth() == class {
                    *goes = true;
                    free += event.bytes();
                }
            }
            let mut goes = goes.into_iter();
            self.events.retain(|_| goes.next() != Some(true));
        }
        *self.bytes_of(class) -= free;
        free
    }

    fn bytes_of(&mut self, class: Worth) -> &mut usize {
        let [progress, log, news, ask] = &mut self.bytes;
        match class {
            Worth::Progress => progress,
            Worth::Log => log,
            Worth::News => news,
            Worth::Ask => ask,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::Message;
    use wire::limits::Limits;

    use super::*;

    fn event(worth: Worth, len: usize) -> Event {
        let text = format!(r#"{{"jsonrpc":"2.0","method":"x","params":{{"x":"{}"}}}}"#, "x".repeat(len));
        let message = Message::scan(text.into(), &Limits::default()).unwrap();
        match worth {
            Worth::Progress => Event::Progress(message),
            Worth::Log => Event::Notice(Notice::Message, message),
            Worth::News | Worth::Ask => Event::Notice(Notice::ResourceUpdated, message),
        }
    }

    fn shown(waiting: &Waiting) -> Vec<(Worth, usize)> {
        waiting.events.iter().map(|event| (event.worth(), event.bytes())).collect()
    }

    /// What [`Waiting::make_room`] does, by one search for each event that goes.
    fn make_room(events: &mut Vec<(Worth, usize)>, bytes: usize, worth: Worth) -> bool {
        if events.pop_if(|(class, len)| *class == Worth::Progress && *len >= bytes).is_some() {
            return true;
        }
        let may_go = |(class, _): &&(Worth, usize)| *class <= worth.min(Worth::News);
        if events.iter().filter(may_go).map(|(_, len)| len).sum::<usize>() < bytes {
            return false;
        }
        let mut free = 0;
        while free < bytes {
            let least = events.iter().map(|(class, _)| *class).min().unwrap();
            let at = events.iter().rposition(|(class, _)| *class == least).unwrap();
            free += events.remove(at).1;
        }
        true
    }

    #[test]
    fn a_flood_of_equals_into_a_full_queue_looks_through_it_never() {
        for worth in [Worth::Progress, Worth::Log, Worth::News] {
            let mut waiting = Waiting::default();
            (0..1000).for_each(|_| waiting.push(event(worth, 10)));
            for _ in 0..1000 {
                assert!(waiting.make_room(20, worth));
                waiting.push(event(worth, 10));
            }
            assert_eq!((waiting.searches, waiting.events.len()), (0, 1000));
            if worth > Worth::Progress {
                assert!(!waiting.make_room(20, Worth::Progress));
                assert_eq!(waiting.searches, 0, "nor does one that finds no room");
            }
        }
    }

    #[test]
    fn the_cost_of_an_event_covers_its_place_in_the_queue() {
        let event = event(Worth::Log, 0);
        let (Event::Notice(_, message) | Event::Progress(message)) = &event else { panic!("a notification") };
        assert_eq!(event.bytes(), message.bytes().len() + EVENT_COST);
        assert!(EVENT_COST >= size_of::<Event>(), "{}", size_of::<Event>());
    }

    proptest! {
        #[test]
        fn what_goes_is_what_matters_least(
            events in prop::collection::vec((0usize..3, 0usize..50), 0..20),
            wanted in prop::collection::vec((0usize..8 * EVENT_COST, 0usize..3), 0..5),
        ) {
            let mut waiting = Waiting::default();
            events.into_iter().for_each(|(class, len)| waiting.push(event(DROPPED[class], len)));
            let mut model = shown(&waiting);
            for (bytes, class) in wanted {
                let made = waiting.make_room(bytes, DROPPED[class]);
                prop_assert_eq!(made, make_room(&mut model, bytes, DROPPED[class]));
                prop_assert_eq!(shown(&waiting), model.clone());
                prop_assert_eq!(waiting.bytes(), model.iter().map(|(_, len)| len).sum::<usize>());
            }
            while waiting.pop().is_some() {}
            prop_assert_eq!(waiting.bytes(), 0);
        }
    }
}
