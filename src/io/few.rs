//! A queue that mostly holds one thing or none.
//!
//! Nearly every connection has at most one chunk waiting each way: a request came whole, its answer
//! leaves whole. So the first place is in the record itself, and only what stands behind it needs
//! memory of its own, which goes again when the queue is empty: an idle connection holds none. With
//! a `VecDeque` in its place an echo of 64 bytes cost two allocations, a sixth of its instructions.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

/// See the module.
#[derive(Debug)]
pub(crate) struct Few<T> {
    /// The head; `None` exactly when the queue is empty.
    first: Option<T>,
    /// What stands behind the head. `None` whenever the queue was empty last.
    #[expect(
        clippy::box_collection,
        reason = "a queue without it is 24 bytes smaller, in every record, twice"
    )]
    rest: Option<Box<VecDeque<T>>>,
}

impl<T> Default for Few<T> {
    fn default() -> Few<T> {
        Few {
            first: None,
            rest: None,
        }
    }
}

impl<T> Few<T> {
    /// How many there are.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.as_ref().map_or(0, |rest| rest.len())
    }

    /// Whether there is none.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The first one.
    #[inline]
    pub(crate) fn front(&self) -> Option<&T> {
        self.first.as_ref()
    }

    /// The first one, if there is no other.
    #[inline]
    pub(crate) fn only(&self) -> Option<&T> {
        match self.rest {
            None => self.first.as_ref(),
            Some(_) => None,
        }
    }

    /// The last one.
    pub(crate) fn back_mut(&mut self) -> Option<&mut T> {
        match &mut self.rest {
            Some(rest) if !rest.is_empty() => rest.back_mut(),
            _ => self.first.as_mut(),
        }
    }

    /// Puts one behind all others.
    #[inline]
    pub(crate) fn push_back(&mut self, item: T) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.rest.get_or_insert_default().push_back(item);
        }
    }

    /// Puts the first one in, where there is none. Straight into its place: what is handed to a call
    /// that may be made is in memory first, and is copied from there.
    #[inline(always)]
    pub(crate) fn put_only(&mut self, item: T) {
        let none = self.first.replace(item);
        debug_assert!(none.is_none(), "others stand before it");
        // Nothing to drop, and no look whether there is.
        std::mem::forget(none);
    }

    /// Puts one before all others.
    pub(crate) fn push_front(&mut self, item: T) {
        if let Some(second) = self.first.replace(item) {
            self.rest.get_or_insert_default().push_front(second);
        }
    }

    /// Takes the first one out.
    #[inline]
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        if self.rest.is_some() {
            return self.pop_and_move_up();
        }
        self.first.take()
    }

    /// Takes the first one out, if there is no other: short, where others would have to move up.
    #[inline(always)]
    pub(crate) fn take_only(&mut self) -> Option<T> {
        match self.rest {
            None => self.first.take(),
            Some(_) => None,
        }
    }

    /// As `pop_front`, where others may stand behind.
    fn pop_and_move_up(&mut self) -> Option<T> {
        let second = self.rest.as_mut().and_then(|rest| rest.pop_front());
        if second.is_none() {
            self.rest = None;
        }
        std::mem::replace(&mut self.first, second)
    }

    /// All of them, from the first on.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let rest = self.rest.iter().flat_map(|rest| rest.iter());
        self.first.iter().chain(rest)
    }

    /// Takes all of them out.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        let Few { first, rest } = std::mem::take(self);
        first
            .into_iter()
            .chain(rest.into_iter().flat_map(|rest| *rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a queue can be asked.
    #[derive(Clone, Copy, Debug)]
    enum Ask {
        PushBack(u8),
        PushFront(u8),
        PopFront,
        PutOnly(u8),
        TakeOnly,
        Take,
    }

    fn any_ask() -> impl Strategy<Value = Ask> {
        prop_oneof![
            3 => any::<u8>().prop_map(Ask::PushBack),
            1 => any::<u8>().prop_map(Ask::PushFront),
            3 => Just(Ask::PopFront),
            1 => any::<u8>().prop_map(Ask::PutOnly),
            1 => Just(Ask::TakeOnly),
            1 => Just(Ask::Take),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_queue_whatever_is_asked(asks in prop::collection::vec(any_ask(), 0..60)) {
            let mut few = Few::default();
            let mut model = VecDeque::new();
            for ask in asks {
                match ask {
                    Ask::PushBack(item) => {
                        few.push_back(item);
                        model.push_back(item);
                    }
                    Ask::PushFront(item) => {
                        few.push_front(item);
                        model.push_front(item);
                    }
                    Ask::PopFront => prop_assert_eq!(few.pop_front(), model.pop_front()),
                    Ask::PutOnly(item) if few.is_empty() => {
                        few.put_only(item);
                        model.push_back(item);
                    }
                    Ask::PutOnly(_) => {}
                    Ask::TakeOnly => {
                        let only = few.only().copied();
                        prop_assert_eq!(few.take_only(), only);
                        if only.is_some() {
                            model.clear();
                        }
                    }
                    Ask::Take => {
                        let taken: Vec<u8> = few.take().collect();
                        prop_assert_eq!(taken, model.drain(..).collect::<Vec<u8>>());
                    }
                }
                prop_assert_eq!(few.len(), model.len());
                prop_assert_eq!(few.is_empty(), model.is_empty());
                prop_assert_eq!(few.front(), model.front());
                let only = if model.len() == 1 && few.rest.is_none() { model.front() } else { None };
                prop_assert_eq!(few.only(), only);
                prop_assert_eq!(few.back_mut(), model.back_mut());
                prop_assert!(few.iter().eq(model.iter()));
                prop_assert!(!few.is_empty() || few.rest.is_none(), "an empty one holds no memory");
            }
        }
    }
}
