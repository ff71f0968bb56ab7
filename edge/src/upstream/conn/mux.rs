//! The table of requests in flight, by id: a slab whose keys are the ids on the wire.
//!
//! Pure: no I/O, no clock. Open, close and look-up take constant time, and memory is bounded by the capacity. An id
//! is not used again while something could still answer it: each use of a place increments its generation, so a late
//! answer never reaches a new call.

/// The id of a request to a server, unique on its connection. It is also the request's progress token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct WireId(u64);

/// The requests in flight, by id.
#[derive(Debug)]
pub(super) struct Mux<T> {
    places: Vec<Place<T>>,
    free: Vec<u16>,
    open: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    entry: Option<T>,
}

/// The state of an id that a server sends back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdState {
    /// Its request waits for an answer.
    Open,
    /// Its request was answered or cancelled before.
    Closed,
    /// It was never used.
    Unknown,
}

impl WireId {
    /// The number on the wire.
    pub(super) fn number(self) -> u64 {
        self.0
    }

    /// An id from the wire, which may be any number.
    pub(super) fn from_number(number: u64) -> Self {
        Self(number)
    }

    // The index takes the low 16 bits and the generation the 32 above them: 48 bits, which a server that reads
    // numbers as IEEE doubles keeps exact.
    fn new(index: u16, generation: u32) -> Self {
        Self(u64::from(generation) << 16 | u64::from(index))
    }

    fn index(self) -> usize {
        usize::from(self.0 as u16)
    }
}

impl<T> Mux<T> {
    /// A table for at most `capacity` requests, and never more than 65,536.
    pub(super) fn new(capacity: usize) -> Self {
        let capacity = capacity.min(usize::from(u16::MAX) + 1);
        Self { places: Vec::new(), free: Vec::new(), open: 0, capacity }
    }

    /// A free place, whose id is known before it is filled; `None` when all are taken.
    pub(super) fn vacant(&mut self) -> Option<Vacant<'_, T>> {
        let index = match self.free.last() {
            Some(&index) => index,
            None if self.places.len() < self.capacity => {
                let index = u16::try_from(self.places.len()).ok()?;
                // Generations start at one: some servers take an id or a progress token of zero for none.
                self.places.push(Place { generation: 1, entry: None });
                self.free.push(index);
                index
            }
            None => return None,
        };
        let id = WireId::new(index, self.places.get(usize::from(index))?.generation);
        Some(Vacant { mux: self, id })
    }

    /// Removes the request of `id`.
    pub(super) fn close(&mut self, id: WireId) -> Option<T> {
        let place = self.places.get_mut(id.index())?;
        if WireId::new(id.index() as u16, place.generation) != id {
            return None;
        }
        let entry = place.entry.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.index() as u16);
        self.open -= 1;
        Some(entry)
    }

    /// The request of `id`.
    pub(super) fn get_mut(&mut self, id: WireId) -> Option<&mut T> {
        let place = self.places.get_mut(id.index())?;
        if WireId::new(id.index() as u16, place.generation) != id {
            return None;
        }
        place.entry.as_mut()
    }

    /// The state of `id`.
    pub(super) fn state_of(&self, id: WireId) -> IdState {
        match self.places.get(id.index()) {
            Some(place) if WireId::new(id.index() as u16, place.generation) == id => {
                if place.entry.is_some() { IdState::Open } else { IdState::Unknown }
            }
            Some(place) if id.0 >> 16 != 0 && id.0 >> 16 < u64::from(place.generation) => IdState::Closed,
            _ => IdState::Unknown,
        }
    }

    /// All requests in flight.
    pub(super) fn iter(&self) -> impl Iterator<Item = (WireId, &T)> {
        self.places
            .iter()
            .zip(0u16..)
            .filter_map(|(place, index)| Some((WireId::new(index, place.generation), place.entry.as_ref()?)))
    }

    /// Everything that waits, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().filter_map(|place| place.entry.as_mut())
    }

    /// Removes all requests.
    pub(super) fn drain(&mut self) -> Vec<(WireId, T)> {
        let ids: Vec<_> = self.iter().map(|(id, _)| id).collect();
        ids.into_iter().filter_map(|id| Some((id, self.close(id)?))).collect()
    }

    /// How many requests are in flight.
    pub(super) fn len(&self) -> usize {
        self.open
    }
}

/// A reserved free place.
#[derive(Debug)]
pub(super) struct Vacant<'m, T> {
    mux: &'m mut Mux<T>,
    id: WireId,
}

impl<T> Vacant<'_, T> {
    /// The id that the request will have.
    pub(super) fn id(&self) -> WireId {
        self.id
    }

    /// Takes the place.
    pub(super) fn fill(self, entry: T) {
        if let Some(place) = self.mux.places.get_mut(self.id.index()) {
            place.entry = Some(entry);
            self.mux.free.pop();
            self.mux.open += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn open<T>(mux: &mut Mux<T>, entry: T) -> Option<WireId> {
        let vacant = mux.vacant()?;
        let id = vacant.id();
        vacant.fill(entry);
        Some(id)
    }

    #[test]
    fn table_is_bounded_and_reuses_places() {
        let mut mux = Mux::new(2);
        let first = open(&mut mux, 'a').unwrap();
        open(&mut mux, 'b').unwrap();
        assert!(open(&mut mux, 'c').is_none());
        assert_eq!(mux.close(first), Some('a'));
        assert!(open(&mut mux, 'c').is_some());
        assert_eq!(mux.len(), 2);
    }

    #[test]
    fn late_answer_does_not_reach_the_next_call() {
        let mut mux = Mux::new(1);
        let first = open(&mut mux, 'a').unwrap();
        mux.close(first);
        assert_eq!(mux.state_of(first), IdState::Closed);
        let second = open(&mut mux, 'b').unwrap();
        assert_ne!(first, second);
        assert_eq!(mux.close(first), None);
        assert_eq!(mux.state_of(first), IdState::Closed);
        assert_eq!(mux.state_of(second), IdState::Open);
        for never in [0, 1, 7 << 16, 1 << 50, u64::MAX] {
            assert_eq!(mux.state_of(WireId::from_number(never)), IdState::Unknown, "{never}");
            assert_eq!(mux.close(WireId::from_number(never)), None, "{never}");
        }
    }

    #[test]
    fn ids_are_never_zero_and_exact_as_doubles() {
        let mut mux = Mux::new(70_000);
        for n in 0..=usize::from(u16::MAX) {
            let id = open(&mut mux, n).unwrap().number();
            assert!(id > 0 && id < 1 << 53);
        }
        assert!(mux.vacant().is_none());
    }

    proptest! {
        #[test]
        fn table_behaves_as_a_map_whose_keys_never_return(steps in prop::collection::vec((any::<bool>(), 0usize..8), 0..200)) {
            let (mut mux, mut model, mut seen) = (Mux::new(5), HashMap::new(), Vec::new());
            for (n, (opens, pick)) in steps.into_iter().enumerate() {
                if opens {
                    let id = open(&mut mux, n);
                    prop_assert_eq!(id.is_some(), model.len() < 5);
                    if let Some(id) = id {
                        prop_assert!(!seen.contains(&id));
                        seen.push(id);
                        model.insert(id, n);
                    }
                } else if let Some(&id) = seen.get(pick) {
                    prop_assert_eq!(mux.get_mut(id).copied(), model.get(&id).copied());
                    prop_assert_eq!(mux.close(id), model.remove(&id));
                }
                prop_assert_eq!(mux.len(), model.len());
            }
            let rest: HashMap<_, _> = mux.drain().into_iter().collect();
            prop_assert_eq!(rest, model);
        }
    }
}
